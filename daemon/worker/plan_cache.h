// PlanCache: the plans of one lane, by input signature and by id.
//
// Ids count from 1 and mean the same for the lane's life: nothing is ever replaced. The number of
// plans is bounded; a client that sends a new signature each time fills its own lane's cache.
//
// Thread safety: all methods may be called from any thread. Plans, once given, are constant and
// live as long as the cache.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "daemon/plans/plan.h"

namespace bucketd {

class PlanCache {
 public:
  // At most `max_plans` plans; 0: keeps none.
  explicit PlanCache(std::uint32_t max_plans);

  // The plan with this signature, or null. Does not allocate.
  const Plan* find(std::span<const TensorSignature> signature) const;

  // The plan with this id, or null. Does not allocate.
  const Plan* find(std::uint32_t id) const;

  // Keeps a copy of `plan` with the next id and returns it; the one that is there already when
  // another thread was faster; null when the cache is full.
  const Plan* insert(const Plan& plan);

 private:
  const Plan* find_locked(std::span<const TensorSignature> signature, std::uint64_t hash) const;

  const std::uint32_t max_plans_;
  mutable std::mutex mutex_;
  // Guarded by mutex_. plans_[i] has id i + 1. table_ is open-addressed, at most half full, and
  // holds ids; 0 is empty.
  std::vector<std::unique_ptr<const Plan>> plans_;
  std::vector<std::uint32_t> table_;
};

}  // namespace bucketd
