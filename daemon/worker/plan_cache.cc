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
  entries_.reserve(max_plans);
}

const PlanCache::Entry* PlanCache::find_locked(std::span<const TensorSignature> signature,
                                               std::uint64_t hash) const {
  const std::uint64_t mask = table_.size() - 1;
  for (std::uint64_t at = hash & mask; table_[at] != 0; at = (at + 1) & mask) {
    const Entry& entry = *entries_[table_[at] - 1];
    if (std::equal(entry.plan.signature.begin(), entry.plan.signature.end(), signature.begin(),
                   signature.end())) {
      return &entry;
    }
  }
  return nullptr;
}

PlanCache::Known PlanCache::look_up(std::span<const TensorSignature> signature) const {
  const std::uint64_t hash = hash_of(signature);
  const std::lock_guard lock(mutex_);
  const Entry* entry = find_locked(signature, hash);
  if (entry == nullptr) return {};
  return {true, entry->has_plan ? &entry->plan : nullptr};
}

const Plan* PlanCache::find(std::uint32_t id) const {
  const std::lock_guard lock(mutex_);
  if (id < 1 || id > entries_.size() || !entries_[id - 1]->has_plan) return nullptr;
  return &entries_[id - 1]->plan;
}

bool PlanCache::is_full() const {
  const std::lock_guard lock(mutex_);
  return entries_.size() >= max_plans_;
}

const Plan* PlanCache::insert(const Plan& plan) {
  auto entry = std::make_unique<Entry>(Entry{plan, true});
  const std::lock_guard lock(mutex_);
  const Entry* kept = insert_locked(std::move(entry));
  return kept != nullptr && kept->has_plan ? &kept->plan : nullptr;
}

void PlanCache::insert_unplanned(std::span<const TensorSignature> signature) {
  auto entry = std::make_unique<Entry>();
  entry->plan.signature.assign(signature.begin(), signature.end());
  const std::lock_guard lock(mutex_);
  insert_locked(std::move(entry));
}

const PlanCache::Entry* PlanCache::insert_locked(std::unique_ptr<Entry> entry) {
  const std::uint64_t hash = hash_of(entry->plan.signature);
  if (const Entry* present = find_locked(entry->plan.signature, hash)) return present;
  if (entries_.size() >= max_plans_) return nullptr;
  entry->plan.id = static_cast<std::uint32_t>(entries_.size() + 1);
  entries_.push_back(std::move(entry));
  const std::uint64_t mask = table_.size() - 1;
  std::uint64_t at = hash & mask;
  while (table_[at] != 0) at = (at + 1) & mask;
  table_[at] = static_cast<std::uint32_t>(entries_.size());
  return entries_.back().get();
}

}  // namespace bucketd
