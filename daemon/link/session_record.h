// SessionRecord: what the worker writes down about one session, in the session's arena behind its
// states, for the supervisor to read at any time. It lies in the supervisor's memory, so that it
// goes on over the worker's death.
//
// A worker that lies here falsifies what its own sessions' users see in a list, and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace bucketd {

// One writer at a time: the executor that runs the session's present request.
struct alignas(64) SessionRecord {
  std::atomic<std::uint64_t> requests;         // that began to run, ever
  std::atomic<std::uint64_t> last_request_ns;  // CLOCK_MONOTONIC when the last one began; 0: none

  void count_request(std::uint64_t now_ns) {
    requests.store(requests.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    last_request_ns.store(now_ns, std::memory_order_relaxed);
  }
};

inline constexpr std::uint64_t kSessionRecordBytes = sizeof(SessionRecord);
static_assert(std::is_standard_layout_v<SessionRecord>);

}  // namespace bucketd
