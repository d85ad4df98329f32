// The probe model with one size of input: through the daemon, and behind servers that are not
// bucketd and run the same artifact. The caller's writing of the input counts everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/alternation.h"
#include "tools/bench/bench_context.h"

namespace bucketd {

struct PayloadSide {
  std::string name;          // "daemon", "grpc_message", "grpc_shm", "socket"
  std::string what;          // in words
  std::string skipped = {};  // why nothing was measured
  Measured measured = {};
};

// The artifact for inputs of `bytes` bytes.
std::string probe_artifact(std::uint64_t bytes);

// The daemon first, then gRPC with the tensor in the message.
Result<std::vector<PayloadSide>> compare_payload(BenchContext& context, std::uint64_t bytes);

}  // namespace bucketd
