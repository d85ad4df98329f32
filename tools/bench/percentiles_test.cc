#include "tools/bench/percentiles.h"

#include <gtest/gtest.h>

namespace bucketd {
namespace {

using std::chrono::nanoseconds;

std::vector<nanoseconds> one_to(int count) {
  std::vector<nanoseconds> samples;
  for (int i = count; i >= 1; --i) samples.emplace_back(i);
  return samples;
}

TEST(Percentile, is_the_nearest_rank) {
  const std::vector<nanoseconds> samples = one_to(100);
  EXPECT_EQ(percentile(samples, 50), nanoseconds(50));
  EXPECT_EQ(percentile(samples, 99), nanoseconds(99));
  EXPECT_EQ(percentile(samples, 100), nanoseconds(100));
  EXPECT_EQ(percentile({nanoseconds(7)}, 1), nanoseconds(7));
  EXPECT_EQ(percentile({nanoseconds(1), nanoseconds(2)}, 50), nanoseconds(1));
  EXPECT_EQ(percentile({nanoseconds(1), nanoseconds(2)}, 51), nanoseconds(2));
}

TEST(Percentile, per_mille_is_the_nearest_rank) {
  EXPECT_EQ(percentile_per_mille(one_to(1000), 999), nanoseconds(999));
  EXPECT_EQ(percentile_per_mille(one_to(2000), 999), nanoseconds(1998));
  // Too few samples to tell: the largest.
  EXPECT_EQ(percentile_per_mille(one_to(100), 999), nanoseconds(100));
  EXPECT_EQ(percentile_per_mille(one_to(3), 1), nanoseconds(1));
}

}  // namespace
}  // namespace bucketd
