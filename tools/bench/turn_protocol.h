// The words between the bench and the programs it measures in processes of their own: a TurnOrder
// on their standard input, a TurnReport with what follows it on their standard output. Both ends
// are built together; nothing is portable here.
#pragma once

#include <cstdint>

namespace bucketd {

// One turn: `warm_up` calls untimed, then timed ones, `calls` of them or, if that is not zero,
// until `duration_ns` is over.
struct TurnOrder {
  std::uint64_t warm_up = 0;
  std::uint64_t calls = 0;
  std::int64_t duration_ns = 0;
};

// First one without an order, when the program is ready for its first.
struct TurnReport {
  std::uint64_t samples = 0;       // int64 nanoseconds follow, so many
  std::uint64_t text_bytes = 0;    // then this much text: what failed
  std::int64_t client_cpu_ns = 0;  // so far
  std::int64_t server_cpu_ns = 0;
};

}  // namespace bucketd
