#include "tools/bench/fairness.h"

#include <gtest/gtest.h>

#include <vector>

namespace bucketd {
namespace {

TEST(JainIndex, is_one_when_all_get_the_same) {
  EXPECT_DOUBLE_EQ(jain_index(std::vector<double>{5, 5, 5, 5}), 1);
}

TEST(JainIndex, is_the_share_of_those_who_get_something) {
  EXPECT_DOUBLE_EQ(jain_index(std::vector<double>{8, 0, 0, 0, 0, 0, 0, 0}), 1.0 / 8);
  EXPECT_DOUBLE_EQ(jain_index(std::vector<double>{3, 3, 0, 0}), 0.5);
}

TEST(JainIndex, is_that_of_the_formula) {
  // (1 + 2 + 3)^2 / (3 * (1 + 4 + 9))
  EXPECT_DOUBLE_EQ(jain_index(std::vector<double>{1, 2, 3}), 36.0 / 42);
}

TEST(JainIndex, is_zero_when_nobody_gets_anything) {
  EXPECT_DOUBLE_EQ(jain_index(std::vector<double>{0, 0}), 0);
}

}  // namespace
}  // namespace bucketd
