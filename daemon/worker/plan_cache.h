// PlanCache: the plans of one lane, by input signature and by id; and which signatures have none,
// so that nobody looks for one again.
//
// Ids count from 1 and mean the same for the lane's life: nothing is ever replaced. The number of
// signatures is bounded; a client that sends a new one each time fills its own lane's cache.
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
  // At most `max_plans` signatures; 0: keeps none.
  explicit PlanCache(std::uint32_t max_plans);

  // What is known of a signature: its plan, or that it has none.
  struct Known {
    bool is_known = false;
    const Plan* plan = nullptr;
  };
  // Does not allocate.
  Known look_up(std::span<const TensorSignature> signature) const;

  // The plan with this signature, or null. Does not allocate.
  const Plan* find(std::span<const TensorSignature> signature) const {
    return look_up(signature).plan;
  }

  // The plan with this id, or null. Does not allocate.
  const Plan* find(std::uint32_t id) const;

  // Keeps a copy of `plan` with the next id and returns it; the one that is there already when
  // another thread was faster; null when the cache is full.
  const Plan* insert(const Plan& plan);

  // Takes note that the signature has no plan; nothing happens when the cache is full.
  void insert_unplanned(std::span<const TensorSignature> signature);

  bool is_full() const;

 private:
  struct Entry {
    Plan plan;  // of a signature without plan, that alone
    bool has_plan = false;
  };

  const Entry* find_locked(std::span<const TensorSignature> signature, std::uint64_t hash) const;
  const Entry* insert_locked(std::unique_ptr<Entry> entry);

  const std::uint32_t max_plans_;
  mutable std::mutex mutex_;
  // Guarded by mutex_. entries_[i] has id i + 1. table_ is open-addressed, at most half full, and
  // holds ids; 0 is empty.
  std::vector<std::unique_ptr<const Entry>> entries_;
  std::vector<std::uint32_t> table_;
};

}  // namespace bucketd
