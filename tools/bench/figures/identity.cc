// The identity model with 64 bytes, beside what no daemon can avoid: the barest hand-off between
// two processes, and the model itself.
#include <array>
#include <memory>
#include <utility>

#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/timed.h"
#include "tools/bench/turn_process.h"

namespace bucketd {
namespace {

struct Variant {
  const char* name;  // empty: the gate
  Waiting waiting;
  const char* handoff;
  bool one_cpu;
  Pace pace;
};

Result<std::vector<FigureRow>> measure_variant(BenchContext& context, const Figure& figure,
                                               const Variant& variant) {
  const std::string& artifact = figure.artifacts[0];
  const int client_cpu = variant.one_cpu ? context.server_cpu() : context.client_cpu();
  Result<BenchDaemon*> daemon = context.daemon(variant.waiting);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(artifact);
  if (!model) return error(model.error());
  Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(model->description(), 0));
  if (!caller) return error(caller.error());
  Result<InProcessModel*> local = context.in_process(artifact);
  if (!local) return error(local.error());
  if (Status status = (*local)->use(caller->inputs().views()); !status.ok()) return error(status);
  Result<std::unique_ptr<TurnProcess>> handoff =
      TurnProcess::start("bucketd-bench-handoff",
                         {"--mode", variant.handoff, "--client-cpu", std::to_string(client_cpu),
                          "--server-cpu", std::to_string(context.server_cpu())});
  if (!handoff) return error(handoff.error());

  pin_to_cpu(client_cpu);
  LocalSide through_daemon([&] { return caller->call(); }, [&] { return (*daemon)->cpu_time(); });
  LocalSide forward([&] { return timed([&] { return (*local)->forward(); }); });
  LocalSide bucket([&] { return timed([&] { return (*local)->run_bucket(); }); });
  const std::array<Side*, 4> sides = {&through_daemon, handoff->get(), &forward, &bucket};
  const Result<std::vector<Measured>> measured = alternate(sides, variant.pace);
  if (!measured) return error(measured.error());

  FigureRow row = row_of(figure, variant.name);
  const Times handoff_times = (*measured)[1].times();
  row.ours = (*measured)[0].times();
  row.baseline = handoff_times + (*measured)[2].times();
  set_ratio(row);
  row.ours_cpu = (*measured)[0].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = std::string("daemon call / bare ") + variant.handoff + " hand-off + forward";
  row.note = "hand-off " + in_us(handoff_times.p50_us) + ", forward " +
             in_us((*measured)[2].times().p50_us);
  // The stricter question: beside the bucket without its kernel.
  FigureRow strict = row;
  strict.name = figure.name + (row.is_gate ? "" : std::string("/") + variant.name) + "/bucket_only";
  strict.is_gate = false;
  strict.baseline = handoff_times + (*measured)[3].times();
  set_ratio(strict);
  strict.compares = std::string("daemon call / bare ") + variant.handoff + " hand-off + bucket";
  strict.note = "bucket " + in_us((*measured)[3].times().p50_us);
  return std::vector<FigureRow>{row, strict};
}

Result<std::vector<FigureRow>> measure_sleeping(BenchContext& context, const Figure& figure) {
  const Pace pace{.budget = context.budget(0.7), .calls_per_turn = 64, .warm_up_per_turn = 8};
  Result<std::vector<FigureRow>> rows =
      measure_variant(context, figure, {"", Waiting::kSleeping, "futex", true, pace});
  if (!rows) return rows;
  Result<std::vector<FigureRow>> more =
      measure_variant(context, figure, {"two_cpus", Waiting::kSleeping, "futex", false, pace});
  if (!more) return more;
  rows->insert(rows->end(), more->begin(), more->end());
  return rows;
}

Result<std::vector<FigureRow>> measure_awake(BenchContext& context, const Figure& figure) {
  const Pace pace{.budget = context.budget(),
                  .calls_per_turn = 256,
                  .warm_up_per_turn = 64,
                  .pause = kAwakeSpin + std::chrono::milliseconds(1)};
  return measure_variant(context, figure, {"", Waiting::kAwake, "spin", false, pace});
}

}  // namespace

Figure identity_sleeping() {
  return {.name = "identity_sleeping",
          .limit = 1.5,
          .artifacts = {"identity"},
          .cpus = 1,
          .measure = measure_sleeping};
}

Figure identity_awake() {
  return {
      .name = "identity_awake", .limit = 1.5, .artifacts = {"identity"}, .measure = measure_awake};
}

}  // namespace bucketd
