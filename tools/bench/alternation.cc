#include "tools/bench/alternation.h"

#include <thread>

#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

struct CpuTotals {
  nanoseconds client{0};
  nanoseconds server{0};
};

double per_thousand(nanoseconds time, std::size_t calls) {
  return std::chrono::duration<double>(time).count() * 1000 / static_cast<double>(calls);
}

}  // namespace

Status LocalSide::take_turn(std::size_t warm_up, std::size_t calls,
                            std::vector<nanoseconds>& samples) {
  for (std::size_t i = 0; i < warm_up + calls; ++i) {
    const Result<nanoseconds> took = call_();
    if (!took) return took.error();
    if (i >= warm_up) samples.push_back(*took);
  }
  return {};
}

nanoseconds LocalSide::client_cpu() const { return own_cpu_time(); }

nanoseconds LocalSide::server_cpu() const { return server_cpu_ ? server_cpu_() : nanoseconds(0); }

Result<std::vector<Measured>> alternate(std::span<Side* const> sides, const Pace& pace) {
  std::vector<Measured> measured(sides.size());
  std::vector<CpuTotals> cpu(sides.size());
  const std::size_t calls_a_round = pace.warm_up_per_turn + pace.calls_per_turn;
  const Clock::time_point started = Clock::now();
  std::size_t rounds = 0;
  for (bool warm = false; rounds < pace.min_rounds || Clock::now() - started < pace.budget;) {
    for (std::size_t s = 0; s < sides.size(); ++s) {
      const CpuTotals before{sides[s]->client_cpu(), sides[s]->server_cpu()};
      Status status =
          sides[s]->take_turn(pace.warm_up_per_turn, pace.calls_per_turn, measured[s].samples);
      if (!status.ok()) return error(std::move(status));
      if (pace.pause.count() > 0) std::this_thread::sleep_for(pace.pause);
      cpu[s].client += sides[s]->client_cpu() - before.client;
      cpu[s].server += sides[s]->server_cpu() - before.server;
    }
    if (warm) {
      ++rounds;
      continue;
    }
    warm = true;
    for (Measured& side : measured) side.samples.clear();
    cpu.assign(sides.size(), {});
  }
  for (std::size_t s = 0; s < sides.size(); ++s) {
    measured[s].cpu = {per_thousand(cpu[s].client, rounds * calls_a_round),
                       per_thousand(cpu[s].server, rounds * calls_a_round)};
  }
  return measured;
}

}  // namespace bucketd
