#include "common/spin_budget.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace bucketd {
namespace {

// How often in a row take() says not to stay awake.
std::uint32_t skips(SpinBudget& budget) {
  std::uint32_t count = 0;
  while (budget.take() == 0) ++count;
  return count;
}

TEST(SpinBudget, grants_its_limit_as_long_as_that_pays) {
  SpinBudget budget(50'000);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(budget.take(), 50'000u);
    budget.note(true);
  }
}

TEST(SpinBudget, skips_twice_as_many_after_each_failure_in_a_row_up_to_a_bound) {
  SpinBudget budget(50'000);
  EXPECT_EQ(skips(budget), 0u);
  for (const std::uint32_t expected : {1u, 2u, 4u, 8u, 16u, 32u, 64u, 64u}) {
    budget.note(false);
    EXPECT_EQ(skips(budget), expected);
  }
}

TEST(SpinBudget, one_that_paid_ends_the_series) {
  SpinBudget budget(50'000);
  for (int i = 0; i < 5; ++i) {
    budget.note(false);
    skips(budget);
  }
  budget.note(true);
  EXPECT_EQ(skips(budget), 0u);
  budget.note(false);
  EXPECT_EQ(skips(budget), 1u);
}

TEST(SpinBudget, with_limit_zero_never_stays_awake) {
  SpinBudget budget(0);
  EXPECT_EQ(budget.take(), 0u);
}

TEST(StayAwake, of_no_duration_ends_before_the_first_look) {
  StayAwake awake(0);
  EXPECT_FALSE(awake.goes_on());
  EXPECT_FALSE(awake.lost_cpu());
}

TEST(StayAwake, ends) {
  StayAwake awake(1'000'000);
  std::uint64_t looks = 0;
  while (awake.goes_on()) ++looks;
  EXPECT_FALSE(awake.goes_on());
  // A machine that took the CPU away from the first look on says so.
  EXPECT_TRUE(looks > 0 || awake.lost_cpu());
}

TEST(CurrentCpuMark, tells_a_cpu) { EXPECT_GT(current_cpu_mark(), 0u); }

}  // namespace
}  // namespace bucketd
