// The full fence of the sleep protocol (common/README.md, "Sleeping and waking").
#pragma once

#include <atomic>

namespace bucketd::internal {

inline void full_fence() {
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
// The thread sanitizer does not model fences and GCC warns of each. The words around this one are
// atomics, so that nothing is missed or falsely reported.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace bucketd::internal
