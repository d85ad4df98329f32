#include "common/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cassert>
#include <cerrno>

// Debian 12's kernel headers have futex_waitv; older ones get the numbers of the kernel's ABI.
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

namespace bucketd {
namespace {

// struct futex_waitv of <linux/futex.h>, declared here so that older headers do.
struct WaitVector {
  std::uint64_t value;
  std::uint64_t address;
  std::uint32_t flags;
  std::uint32_t reserved;
};
constexpr std::uint32_t kFutex32 = 2;  // FUTEX_32: shared, since FUTEX_PRIVATE_FLAG is not set

timespec to_timespec(std::chrono::steady_clock::time_point point) {
  using std::chrono::nanoseconds;
  using std::chrono::seconds;
  const auto since = point.time_since_epoch();
  const auto whole = std::chrono::duration_cast<seconds>(since);
  const auto rest = std::chrono::duration_cast<nanoseconds>(since - whole);
  return timespec{static_cast<time_t>(whole.count()), static_cast<long>(rest.count())};
}

}  // namespace

FutexWait futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                     std::optional<std::chrono::steady_clock::time_point> deadline) {
  timespec until{};
  if (deadline) until = to_timespec(*deadline);
  // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, which is steady_clock's.
  const long result = ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected,
                                deadline ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
  if (result != 0 && errno == ETIMEDOUT) return FutexWait::kTimedOut;
  return FutexWait::kWoken;
}

void futex_wake(const std::atomic<std::uint32_t>& word, int count) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

bool has_futex_wait_any() {
  static const bool present = [] {
    // With no words the call fails with EINVAL where it exists, and otherwise (ENOSYS; EPERM under
    // a system call filter) where it does not.
    return ::syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, CLOCK_MONOTONIC) < 0 &&
           errno == EINVAL;
  }();
  return present;
}

FutexWait futex_wait_any(std::span<const FutexWord> words,
                         std::optional<std::chrono::steady_clock::time_point> deadline) {
  assert(!words.empty() && words.size() <= kMaxFutexWords);
  std::array<WaitVector, kMaxFutexWords> vectors;
  for (std::size_t i = 0; i < words.size(); ++i) {
    vectors[i] =
        WaitVector{words[i].expected, reinterpret_cast<std::uintptr_t>(words[i].word), kFutex32, 0};
  }
  timespec until{};
  if (deadline) until = to_timespec(*deadline);
  const long result = ::syscall(SYS_futex_waitv, vectors.data(), words.size(), 0,
                                deadline ? &until : nullptr, CLOCK_MONOTONIC);
  if (result < 0 && errno == ETIMEDOUT) return FutexWait::kTimedOut;
  return FutexWait::kWoken;
}

}  // namespace bucketd
