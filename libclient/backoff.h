// Backoff: how long to wait between attempts, longer each time.
//
// Thread safety: none; of one thread's loop.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace bucketd::internal {

// How often a daemon that is not there is tried again: at first, and at most.
inline constexpr std::chrono::milliseconds kFirstRetryDelay{1};
inline constexpr std::chrono::milliseconds kLongestRetryDelay{20};

class Backoff {
 public:
  // False, at once, if the deadline comes first.
  bool wait(std::chrono::steady_clock::time_point deadline) {
    const auto next = std::chrono::steady_clock::now() + delay_;
    if (next >= deadline) return false;
    std::this_thread::sleep_until(next);
    delay_ = std::min(delay_ * 2, kLongestRetryDelay);
    return true;
  }

 private:
  std::chrono::milliseconds delay_ = kFirstRetryDelay;
};

}  // namespace bucketd::internal
