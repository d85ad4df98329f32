// Latency percentiles of a set of samples.
#pragma once

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <vector>

namespace bucketd {

// The smallest sample that at least `per_mille` of a thousand samples do not exceed (nearest rank).
// Asserts that there is a sample.
inline std::chrono::nanoseconds percentile_per_mille(std::vector<std::chrono::nanoseconds> samples,
                                                     std::size_t per_mille) {
  assert(!samples.empty() && per_mille >= 1 && per_mille <= 1000);
  const std::size_t rank = (samples.size() * per_mille + 999) / 1000;
  const auto nth = samples.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(samples.begin(), nth, samples.end());
  return *nth;
}

// The same with a whole percentage.
inline std::chrono::nanoseconds percentile(std::vector<std::chrono::nanoseconds> samples,
                                           std::size_t percent) {
  return percentile_per_mille(std::move(samples), percent * 10);
}

}  // namespace bucketd
