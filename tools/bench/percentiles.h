// Latency percentiles of a set of samples.
#pragma once

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <vector>

namespace bucketd {

// The smallest sample that at least `percent` % of the samples do not exceed (nearest rank).
// Asserts that there is a sample.
inline std::chrono::nanoseconds percentile(std::vector<std::chrono::nanoseconds> samples,
                                           std::size_t percent) {
  assert(!samples.empty() && percent >= 1 && percent <= 100);
  const std::size_t rank = (samples.size() * percent + 99) / 100;
  const auto nth = samples.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(samples.begin(), nth, samples.end());
  return *nth;
}

}  // namespace bucketd
