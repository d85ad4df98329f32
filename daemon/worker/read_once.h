// Reading control data that a client may change at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bucketd {

// Copies `source`, which lies in memory that somebody else writes, to private memory, reading each
// word exactly once: the compiler may not read an atomic a second time in place of the copy, as it
// may with memcpy. The words are not consistent with each other; nothing is assumed of them.
template <typename T>
void read_once(T& destination, const void* source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(std::uint64_t) == 0);
  const auto* from = static_cast<const std::uint64_t*>(source);
  std::uint64_t words[sizeof(T) / sizeof(std::uint64_t)];
  for (std::size_t i = 0; i < sizeof(T) / sizeof(std::uint64_t); ++i) {
    words[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
  }
  std::memcpy(static_cast<void*>(&destination), words, sizeof(T));
}

}  // namespace bucketd
