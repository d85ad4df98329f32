// CLOCK_MONOTONIC in nanoseconds: the clock of deadlines, of completions, and of all times on the
// status page.
#pragma once

#include <chrono>
#include <cstdint>

namespace bucketd {

inline std::uint64_t monotonic_ns() {
  // steady_clock is CLOCK_MONOTONIC in both libstdc++ and libc++ on Linux.
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace bucketd
