// Several client processes at once, and one in-process caller on the worker's core, in turns.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "tools/bench/bench_context.h"

namespace bucketd {

struct ClientLoad {
  std::vector<double> daemon_rates;      // calls a second, all clients together; one a turn
  std::vector<double> in_process_rates;  // the same of the in-process caller
  std::vector<double> by_client;         // calls of each in all turns
  std::size_t calls = 0;                 // of all of them
  std::vector<std::chrono::nanoseconds> latencies;  // of all of them
};

// Of one of the guide's models, with the guide's 122 tokens. Clients share the client's CPU and
// have one request in flight each.
Result<ClientLoad> measure_load(BenchContext& context, const std::string& artifact,
                                std::size_t client_count);

double median(std::vector<double> values);

}  // namespace bucketd
