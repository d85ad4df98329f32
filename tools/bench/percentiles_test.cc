#include "tools/bench/percentiles.h"

#include <gtest/gtest.h>

namespace bucketd {
namespace {

using std::chrono::nanoseconds;

TEST(Percentile, is_the_nearest_rank) {
  std::vector<nanoseconds> samples;
  for (int i = 100; i >= 1; --i) samples.emplace_back(i);
  EXPECT_EQ(percentile(samples, 50), nanoseconds(50));
  EXPECT_EQ(percentile(samples, 99), nanoseconds(99));
  EXPECT_EQ(percentile(samples, 100), nanoseconds(100));
  EXPECT_EQ(percentile({nanoseconds(7)}, 1), nanoseconds(7));
  EXPECT_EQ(percentile({nanoseconds(1), nanoseconds(2)}, 50), nanoseconds(1));
  EXPECT_EQ(percentile({nanoseconds(1), nanoseconds(2)}, 51), nanoseconds(2));
}

}  // namespace
}  // namespace bucketd
