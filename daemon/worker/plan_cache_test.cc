#include "daemon/worker/plan_cache.h"

#include <gtest/gtest.h>

#include <thread>

#include "daemon/plans/testing/pad_model.h"

namespace bucketd {
namespace {

using testing::pad_model;

std::vector<TensorSignature> one(const Shape& shape, DType dtype = DType::kInt64) {
  return {{dtype, shape}};
}

TEST(PlanCache, finds_what_was_inserted_by_signature_and_id) {
  const ModelDescription model = pad_model("m", {1024});
  PlanCache cache(256);
  Plan plan;
  for (std::int64_t size = 1; size <= 256; ++size) {
    ASSERT_TRUE(make_plan(model, one({1, size}), plan).ok());
    const Plan* kept = cache.insert(plan);
    ASSERT_NE(kept, nullptr);
    EXPECT_EQ(kept->id, static_cast<std::uint32_t>(size)) << "ids count from 1";
  }
  for (std::int64_t size = 1; size <= 256; ++size) {
    const Plan* found = cache.find(one({1, size}));
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->id, static_cast<std::uint32_t>(size));
    EXPECT_EQ(cache.find(found->id), found);
  }
  EXPECT_EQ(cache.find(one({1, 257})), nullptr);
  EXPECT_EQ(cache.find(one({1, 1}, DType::kInt32)), nullptr);
  EXPECT_EQ(cache.find(0u), nullptr);
  EXPECT_EQ(cache.find(257u), nullptr);
}

TEST(PlanCache, keeps_no_more_than_its_bound_and_never_replaces) {
  const ModelDescription model = pad_model("m", {1024});
  PlanCache cache(2);
  Plan plan;
  for (const std::int64_t size : {1, 2, 3}) {
    ASSERT_TRUE(make_plan(model, one({1, size}), plan).ok());
    EXPECT_EQ(cache.insert(plan) != nullptr, size <= 2);
  }
  EXPECT_EQ(cache.find(one({1, 1}))->id, 1u);
  EXPECT_EQ(cache.find(one({1, 3})), nullptr);
  PlanCache none(0);
  EXPECT_EQ(none.insert(plan), nullptr);
  EXPECT_EQ(none.find(one({1, 3})), nullptr);
}

TEST(PlanCache, knows_which_signatures_have_no_plan) {
  const ModelDescription model = pad_model("m", {1024});
  PlanCache cache(2);
  EXPECT_FALSE(cache.look_up(one({1, 5})).is_known);
  cache.insert_unplanned(one({1, 5}));
  EXPECT_TRUE(cache.look_up(one({1, 5})).is_known);
  EXPECT_EQ(cache.look_up(one({1, 5})).plan, nullptr);
  EXPECT_EQ(cache.find(1u), nullptr) << "it takes an id that names no plan";
  EXPECT_FALSE(cache.is_full());
  Plan plan;
  ASSERT_TRUE(make_plan(model, one({1, 6}), plan).ok());
  EXPECT_EQ(cache.insert(plan)->id, 2u);
  EXPECT_TRUE(cache.is_full());
  cache.insert_unplanned(one({1, 7}));
  EXPECT_FALSE(cache.look_up(one({1, 7})).is_known);
  ASSERT_TRUE(make_plan(model, one({1, 5}), plan).ok());
  EXPECT_EQ(cache.insert(plan), nullptr) << "nothing is ever replaced";
}

TEST(PlanCache, gives_the_plan_that_is_there_when_a_signature_comes_twice) {
  const ModelDescription model = pad_model("m", {1024});
  PlanCache cache(4);
  Plan plan;
  ASSERT_TRUE(make_plan(model, one({1, 5}), plan).ok());
  const Plan* first = cache.insert(plan);
  EXPECT_EQ(cache.insert(plan), first);
}

TEST(PlanCache, gives_all_threads_the_same_plan_of_a_signature) {
  const ModelDescription model = pad_model("m", {1024});
  constexpr std::int64_t kSizes = 200;
  constexpr std::size_t kThreads = 4;
  PlanCache cache(kSizes / 2);
  std::vector<std::vector<const Plan*>> got(kThreads);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Plan plan;
      for (std::int64_t size = 1; size <= kSizes; ++size) {
        const Plan* found = cache.find(one({1, size}));
        if (found == nullptr && make_plan(model, one({1, size}), plan).ok()) {
          found = cache.insert(plan);
        }
        got[t].push_back(found);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 1; t < kThreads; ++t) EXPECT_EQ(got[t], got[0]);
  for (std::size_t i = 0; i < got[0].size(); ++i) {
    ASSERT_EQ(got[0][i] != nullptr, i < kSizes / 2) << i;
    if (got[0][i] == nullptr) continue;
    EXPECT_EQ(got[0][i]->signature[0].shape[1], static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(cache.find(got[0][i]->id), got[0][i]);
  }
}

}  // namespace
}  // namespace bucketd
