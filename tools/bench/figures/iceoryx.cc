// The identity model with 64 bytes, beside iceoryx 2 request/response of 64 bytes and the model
// itself.
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
  const char* mode;
  bool one_cpu;
  Pace pace;
};

Result<std::vector<FigureRow>> measure_variant(BenchContext& context, const Figure& figure,
                                               const Variant& variant) {
  const std::string& artifact = figure.artifacts[0];
  const int client_cpu = variant.one_cpu ? context.server_cpu() : context.client_cpu();
  Result<std::unique_ptr<TurnProcess>> iceoryx = TurnProcess::start(
      "bucketd-bench-iceoryx", {"--mode", variant.mode, "--client-cpu", std::to_string(client_cpu),
                                "--server-cpu", std::to_string(context.server_cpu())});
  if (!iceoryx && iceoryx.error().code() == StatusCode::kNotFound) {
    return std::vector<FigureRow>{skipped_row(
        figure,
        "the iceoryx baseline is not there: package libiceoryx-posh-dev or iceoryx is missing",
        variant.name)};
  }
  if (!iceoryx) return error(iceoryx.error());
  Result<BenchDaemon*> daemon = context.daemon(variant.waiting);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(artifact);
  if (!model) return error(model.error());
  Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(model->description(), 0));
  if (!caller) return error(caller.error());
  Result<InProcessModel*> local = context.in_process(artifact);
  if (!local) return error(local.error());
  if (Status status = (*local)->use(caller->inputs().views()); !status.ok()) return error(status);

  pin_to_cpu(client_cpu);
  LocalSide through_daemon([&] { return caller->call(); }, [&] { return (*daemon)->cpu_time(); });
  LocalSide forward([&] { return timed([&] { return (*local)->forward(); }); });
  LocalSide bucket([&] { return timed([&] { return (*local)->run_bucket(); }); });
  const std::array<Side*, 4> sides = {&through_daemon, iceoryx->get(), &forward, &bucket};
  const Result<std::vector<Measured>> measured = alternate(sides, variant.pace);
  if (!measured) return error(measured.error());

  FigureRow row = row_of(figure, variant.name);
  const Times iceoryx_times = (*measured)[1].times();
  row.ours = (*measured)[0].times();
  row.baseline = iceoryx_times + (*measured)[2].times();
  set_ratio(row);
  row.ours_cpu = (*measured)[0].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = std::string("daemon call / iceoryx ") + variant.mode + " + forward";
  row.note = "iceoryx " + in_us(iceoryx_times.p50_us) + ", forward " +
             in_us((*measured)[2].times().p50_us);
  FigureRow strict = row;
  strict.name += "/bucket_only";
  strict.is_gate = false;
  strict.baseline = iceoryx_times + (*measured)[3].times();
  set_ratio(strict);
  strict.compares = std::string("daemon call / iceoryx ") + variant.mode + " + bucket";
  strict.note = "bucket " + in_us((*measured)[3].times().p50_us);
  return std::vector<FigureRow>{row, strict};
}

Result<std::vector<FigureRow>> measure_waiting(BenchContext& context, const Figure& figure) {
  const Pace pace{.budget = context.budget(0.7), .calls_per_turn = 64, .warm_up_per_turn = 8};
  Result<std::vector<FigureRow>> rows =
      measure_variant(context, figure, {"", Waiting::kSleeping, "waiting", true, pace});
  if (!rows || !(*rows)[0].ratio) return rows;
  Result<std::vector<FigureRow>> more =
      measure_variant(context, figure, {"two_cpus", Waiting::kSleeping, "waiting", false, pace});
  if (!more) return more;
  rows->insert(rows->end(), more->begin(), more->end());
  return rows;
}

Result<std::vector<FigureRow>> measure_polling(BenchContext& context, const Figure& figure) {
  const Pace pace{.budget = context.budget(),
                  .calls_per_turn = 256,
                  .warm_up_per_turn = 64,
                  .pause = kAwakeSpin + std::chrono::milliseconds(1)};
  return measure_variant(context, figure, {"", Waiting::kAwake, "polling", false, pace});
}

}  // namespace

Figure iceoryx_waiting_64b() {
  return {.name = "iceoryx_waiting_64b",
          .limit = 1.0,
          .artifacts = {"identity"},
          .cpus = 1,
          .measure = measure_waiting};
}

Figure iceoryx_polling_64b() {
  return {.name = "iceoryx_polling_64b",
          .limit = 1.0,
          .artifacts = {"identity"},
          .measure = measure_polling};
}

}  // namespace bucketd
