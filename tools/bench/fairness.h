// Jain's index of fairness.
#pragma once

#include <cassert>
#include <span>

namespace bucketd {

// (sum x)^2 / (n * sum x^2), R. Jain et al. 1984: 1 when all shares are equal, 1/n when one has
// everything. Asserts that there is a share; 0 if all are 0.
inline double jain_index(std::span<const double> shares) {
  assert(!shares.empty());
  double sum = 0;
  double squares = 0;
  for (const double share : shares) {
    sum += share;
    squares += share * share;
  }
  return squares > 0 ? sum * sum / (static_cast<double>(shares.size()) * squares) : 0;
}

}  // namespace bucketd
