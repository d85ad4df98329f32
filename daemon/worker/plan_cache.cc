#include "daemon/worker/plan_cache.h"

#include <algorithm>
#include <bit>

namespace bucketd {
namespace {

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  // The multiplier of splitmix64's finaliser. A client that finds collisions slows its own lane.
  hash = (hash ^ value) * 0xBF58476D1CE4E5B9u;
  return hash ^ (hash >> 29);
}

std::uint64_t hash_of(std::span<const TensorSignature> signature) {
  std::uint64_t hash = signature.size();
  for (const TensorSignature& tensor : signature) {
    hash = mix(hash, static_cast<std::uint64_t>(tensor.dtype) << 8 | tensor.shape.rank());
    for (const std::int64_t size : tensor.shape.dims()) {
      hash = mix(hash, static_cast<std::uint64_t>(size));
    }
  }
  return hash;
}

}  // namespace

PlanCache::PlanCache(std::uint32_t max_plans)
    : max_plans_(max_plans), table_(std::bit_ceil(std::uint64_t{max_plans} * 2 + 1), 0) {
  plans_.reserve(max_plans);
}

const Plan* PlanCache::find_locked(std::span<const TensorSignature> signature,
                                   std::uint64_t hash) const {
  const std::uint64_t mask = table_.size() - 1;
  for (std::uint64_t at = hash & mask; table_[at] != 0; at = (at + 1) & mask) {
    const Plan& plan = *plans_[table_[at] - 1];
    if (std::equal(plan.signature.begin(), plan.signature.end(), signature.begin(),
                   signature.end())) {
      return &plan;
    }
  }
  return nullptr;
}

const Plan* PlanCache::find(std::span<const TensorSignature> signature) const {
  const std::uint64_t hash = hash_of(signature);
  const std::lock_guard lock(mutex_);
  return find_locked(signature, hash);
}

const Plan* PlanCache::find(std::uint32_t id) const {
  const std::lock_guard lock(mutex_);
  return id >= 1 && id <= plans_.size() ? plans_[id - 1].get() : nullptr;
}

const Plan* PlanCache::insert(const Plan& plan) {
  const std::uint64_t hash = hash_of(plan.signature);
  const std::lock_guard lock(mutex_);
  if (const Plan* present = find_locked(plan.signature, hash)) return present;
  if (plans_.size() >= max_plans_) return nullptr;
  auto kept = std::make_unique<Plan>(plan);
  kept->id = static_cast<std::uint32_t>(plans_.size() + 1);
  plans_.push_back(std::move(kept));
  const std::uint64_t mask = table_.size() - 1;
  std::uint64_t at = hash & mask;
  while (table_[at] != 0) at = (at + 1) & mask;
  table_[at] = static_cast<std::uint32_t>(plans_.size());
  return plans_.back().get();
}

}  // namespace bucketd
