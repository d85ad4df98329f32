// What default waiting gains and costs beside a plain futex wait, on a bucket of about 4 ms: the
// figures' two sides are the same call to two daemons.
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/timed.h"

namespace bucketd {
namespace {

double cpu_us_of_a_call(const CpuSeconds& cpu) { return (cpu.client + cpu.server) * 1000; }

// {default, plain futex}.
Result<std::vector<Measured>> measure_both(BenchContext& context, const Figure& figure) {
  const std::array<Waiting, 2> ways = {Waiting::kDefault, Waiting::kSleeping};
  std::array<BenchDaemon*, 2> daemons{};
  std::vector<DaemonCaller> callers;
  for (std::size_t i = 0; i < ways.size(); ++i) {
    Result<BenchDaemon*> daemon = context.daemon(ways[i]);
    if (!daemon) return error(daemon.error());
    daemons[i] = *daemon;
    Result<Model> model = daemons[i]->open(figure.artifacts[0]);
    if (!model) return error(model.error());
    Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(model->description(), 0));
    if (!caller) return error(caller.error());
    callers.push_back(std::move(*caller));
  }
  pin_to_cpu(context.client_cpu());
  // The worker's own time of each call is taken off that call: an execution of 4 ms varies by more
  // than what is measured here.
  LocalSide by_default([&] { return callers[0].call_minus_execution(); },
                       [&] { return daemons[0]->cpu_time(); });
  LocalSide by_futex([&] { return callers[1].call_minus_execution(); },
                     [&] { return daemons[1]->cpu_time(); });
  const std::array<Side*, 2> sides = {&by_default, &by_futex};
  return alternate(sides,
                   {.budget = context.budget(2), .calls_per_turn = 8, .warm_up_per_turn = 2});
}

Result<std::vector<Measured>> both_ways(BenchContext& context, const Figure& figure) {
  return context.once<std::vector<Measured>>("hybrid_wait",
                                             [&] { return measure_both(context, figure); });
}

Result<std::vector<FigureRow>> measure_latency(BenchContext& context, const Figure& figure) {
  const Result<std::vector<Measured>> measured = both_ways(context, figure);
  if (!measured) return error(measured.error());
  FigureRow row = row_of(figure);
  row.ours = (*measured)[0].times();
  row.baseline = (*measured)[1].times();
  set_ratio(row);
  row.ours_cpu = (*measured)[0].cpu;
  row.baseline_cpu = (*measured)[1].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = "call - execution, default waiting / plain futex";
  return std::vector<FigureRow>{row};
}

Result<std::vector<FigureRow>> measure_cpu(BenchContext& context, const Figure& figure) {
  const Result<std::vector<Measured>> measured = both_ways(context, figure);
  if (!measured) return error(measured.error());
  FigureRow row = row_of(figure);
  const double ours = cpu_us_of_a_call((*measured)[0].cpu);
  const double futex = cpu_us_of_a_call((*measured)[1].cpu);
  if (futex > 0) {
    row.ratio = ours / futex;
  } else {
    row.skipped = "the kernel does not say how much CPU time was burned";
  }
  row.ours_cpu = (*measured)[0].cpu;
  row.baseline_cpu = (*measured)[1].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = "CPU of client and daemon a call, default waiting / plain futex";
  row.note = in_us(ours) + " / " + in_us(futex);
  return std::vector<FigureRow>{row};
}

}  // namespace

Figure hybrid_wait_latency() {
  return {.name = "hybrid_wait_latency",
          .limit = 0.5,
          .artifacts = {"guide_4ms"},
          .measure = measure_latency};
}

Figure hybrid_wait_cpu() {
  return {
      .name = "hybrid_wait_cpu", .limit = 1.1, .artifacts = {"guide_4ms"}, .measure = measure_cpu};
}

}  // namespace bucketd
