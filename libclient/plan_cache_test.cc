#include "libclient/plan_cache.h"

#include <gtest/gtest.h>

namespace bucketd::internal {
namespace {

std::vector<TensorSignature> of_size(std::int64_t size, DType dtype = DType::kInt64) {
  return {{dtype, {1, size}}};
}

Plan plan_with_id(std::uint32_t id) {
  Plan plan;
  plan.id = id;
  return plan;
}

TEST(PlanCacheTest, finds_a_plan_by_dtypes_and_sizes_only) {
  PlanCache cache;
  cache.insert(of_size(5), plan_with_id(1));
  cache.insert(of_size(6), plan_with_id(2));
  EXPECT_EQ(cache.find(of_size(5))->id, 1u);
  EXPECT_EQ(cache.find(of_size(6))->id, 2u);
  EXPECT_EQ(cache.find(of_size(7)), nullptr);
  EXPECT_EQ(cache.find(of_size(5, DType::kInt32)), nullptr);
  EXPECT_EQ(cache.find(std::vector<TensorSignature>{{DType::kInt64, {5}}}), nullptr);
}

TEST(PlanCacheTest, same_plan_again_keeps_the_one_that_slots_were_filled_by) {
  PlanCache cache;
  cache.insert(of_size(5), plan_with_id(1));
  const auto first = cache.find(of_size(5));
  cache.insert(of_size(5), plan_with_id(1));
  EXPECT_EQ(cache.find(of_size(5)), first);
  cache.insert(of_size(5), plan_with_id(9));
  EXPECT_EQ(cache.find(of_size(5))->id, 9u);
  EXPECT_NE(cache.find(of_size(5))->key, first->key);
}

TEST(PlanCacheTest, forgets_what_is_erased) {
  PlanCache cache;
  cache.insert(of_size(5), plan_with_id(1));
  cache.erase(of_size(5));
  cache.erase(of_size(6));
  EXPECT_EQ(cache.find(of_size(5)), nullptr);
}

TEST(PlanCacheTest, is_bounded) {
  PlanCache cache;
  const auto count = static_cast<std::int64_t>(kMaxCachedPlans) + 100;
  for (std::int64_t size = 0; size < count; ++size) cache.insert(of_size(size), plan_with_id(1));
  std::size_t kept = 0;
  for (std::int64_t size = 0; size < count; ++size) kept += cache.find(of_size(size)) != nullptr;
  EXPECT_EQ(kept, kMaxCachedPlans);
  EXPECT_NE(cache.find(of_size(count - 1)), nullptr);
}

}  // namespace
}  // namespace bucketd::internal
