// Whether a call costs the same whatever its input's size, once the input lies in the slot.
#include <array>
#include <optional>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"

namespace bucketd {
namespace {

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  Result<BenchDaemon*> daemon = context.daemon(Waiting::kDefault);
  if (!daemon) return error(daemon.error());
  std::vector<DaemonCaller> callers;
  for (const std::string& artifact : figure.artifacts) {
    Result<Model> model = (*daemon)->open(artifact);
    if (!model) return error(model.error());
    Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(model->description(), 0));
    if (!caller) return error(caller.error());
    callers.push_back(std::move(*caller));
  }
  pin_to_cpu(context.client_cpu());
  const LocalSide::CpuTime server_cpu = [&] { return (*daemon)->cpu_time(); };
  LocalSide large([&] { return callers[0].call_filled(); }, server_cpu);
  LocalSide small([&] { return callers[1].call_filled(); }, server_cpu);
  // Filling 64 MiB takes milliseconds, in which the worker falls asleep and the caches are swept:
  // the small call gets the same before it.
  LocalSide small_after_large(
      [&]() -> Result<std::chrono::nanoseconds> {
        if (Status status = callers[0].fill_only(); !status.ok()) return error(status);
        return callers[1].call_filled();
      },
      server_cpu);
  const std::array<Side*, 3> sides = {&large, &small_after_large, &small};
  const Result<std::vector<Measured>> measured =
      alternate(sides, {.budget = context.budget(1.5), .calls_per_turn = 2, .warm_up_per_turn = 1});
  if (!measured) return error(measured.error());
  FigureRow row = row_of(figure);
  row.ours = (*measured)[0].times();
  row.baseline = (*measured)[1].times();
  set_ratio(row);
  row.ours_cpu = (*measured)[0].cpu;
  row.baseline_cpu = (*measured)[1].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = "64 MiB / 64 B, each after 64 MiB were written";
  FigureRow warm = row;
  warm.name = figure.name + "/back_to_back";
  warm.is_gate = false;
  warm.baseline = (*measured)[2].times();
  set_ratio(warm);
  warm.baseline_cpu = (*measured)[2].cpu;
  warm.compares = "64 MiB / 64 B, the small one with nothing before it";
  return std::vector<FigureRow>{row, warm};
}

}  // namespace

Figure payload_flatness() {
  return {.name = "payload_flatness",
          .limit = 1.3,
          .artifacts = {"probe_67108864", "probe_64"},
          .measure = measure};
}

}  // namespace bucketd
