// Futex words in shared memory, across processes. (std::atomic::wait is private to a process.)
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace bucketd {

enum class FutexWait {
  kWoken,  // or the word had another value already, or a spurious wake: look again
  kTimedOut,
};

// Sleeps while `word` == `expected`, at most until `deadline` (steady clock). Works on a read-only
// map of the word.
FutexWait futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                     std::optional<std::chrono::steady_clock::time_point> deadline);

// Wakes up to `count` sleepers on `word`.
void futex_wake(const std::atomic<std::uint32_t>& word, int count);

// One word of a futex_wait_any.
struct FutexWord {
  const std::atomic<std::uint32_t>* word = nullptr;
  std::uint32_t expected = 0;
};

// Most words that one futex_wait_any can take.
inline constexpr std::size_t kMaxFutexWords = 128;

// Whether the kernel has futex_waitv (5.16 or later). Checked once.
bool has_futex_wait_any();

// Sleeps until one of `words` (1 to kMaxFutexWords) is woken or differs from its expected value.
FutexWait futex_wait_any(std::span<const FutexWord> words,
                         std::optional<std::chrono::steady_clock::time_point> deadline);

}  // namespace bucketd
