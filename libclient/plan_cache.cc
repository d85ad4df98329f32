#include "libclient/plan_cache.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace bucketd::internal {

std::size_t PlanCache::Hash::operator()(std::span<const TensorSignature> inputs) const {
  // FNV-1a, a size at a time; any mixing is good enough for sizes that the caller itself chose.
  std::uint64_t hash = 14695981039346656037u;
  const auto mix = [&hash](std::uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
  for (const TensorSignature& input : inputs) {
    mix(static_cast<std::uint64_t>(input.dtype) << 8 | input.shape.rank());
    for (const std::int64_t size : input.shape.dims()) mix(static_cast<std::uint64_t>(size));
  }
  return hash ^ hash >> 32;
}

bool PlanCache::Equal::operator()(std::span<const TensorSignature> a,
                                  std::span<const TensorSignature> b) const {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

std::shared_ptr<const Plan> PlanCache::find(std::span<const TensorSignature> inputs) const {
  const auto found = plans_.find(inputs);
  return found == plans_.end() ? nullptr : found->second;
}

void PlanCache::insert(std::span<const TensorSignature> inputs, Plan plan) {
  static std::atomic<std::uint64_t> next_key{1};
  const auto found = plans_.find(inputs);
  if (found != plans_.end() && found->second->id == plan.id) return;
  plan.key = next_key.fetch_add(1, std::memory_order_relaxed);
  auto shared = std::make_shared<const Plan>(std::move(plan));
  if (found != plans_.end()) {
    found->second = std::move(shared);
    return;
  }
  if (plans_.size() >= kMaxCachedPlans) plans_.erase(plans_.begin());
  plans_.emplace(Signature(inputs.begin(), inputs.end()), std::move(shared));
}

void PlanCache::erase(std::span<const TensorSignature> inputs) {
  const auto found = plans_.find(inputs);
  if (found != plans_.end()) plans_.erase(found);
}

}  // namespace bucketd::internal
