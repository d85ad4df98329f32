// What a call costs on top of the bucket's own execution: through the daemon, and in-process.
#include <algorithm>
#include <array>
#include <utility>

#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/timed.h"

namespace bucketd {
namespace {

// The guide's own example: 122 tokens go into the bucket of 128.
constexpr std::int64_t kTokens = 122;

struct Variant {
  const char* name;  // empty: the gate
  std::string artifact;
  std::size_t calls_per_turn;
  std::size_t warm_up_per_turn;
};

Result<FigureRow> measure_variant(BenchContext& context, const Figure& figure,
                                  const Variant& variant) {
  Result<BenchDaemon*> daemon = context.daemon(Waiting::kDefault);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(variant.artifact);
  if (!model) return error(model.error());
  Result<DaemonCaller> caller =
      DaemonCaller::make(*model, shapes_of(model->description(), 0, kTokens));
  if (!caller) return error(caller.error());
  Result<InProcessModel*> local = context.in_process(variant.artifact);
  if (!local) return error(local.error());
  if (Status status = (*local)->use(caller->inputs().views()); !status.ok()) return error(status);

  pin_to_cpu(context.client_cpu());
  LocalSide through_daemon([&] { return caller->call(); }, [&] { return (*daemon)->cpu_time(); });
  LocalSide in_process([&] { return timed([&] { return (*local)->forward(); }); });
  LocalSide bucket([&] { return timed([&] { return (*local)->run_bucket(); }); });
  const std::array<Side*, 3> sides = {&through_daemon, &in_process, &bucket};
  const Result<std::vector<Measured>> measured =
      alternate(sides, {.budget = context.budget(),
                        .calls_per_turn = variant.calls_per_turn,
                        .warm_up_per_turn = variant.warm_up_per_turn});
  if (!measured) return error(measured.error());
  const double bucket_us = (*measured)[2].times().p50_us;
  FigureRow row = row_of(figure, variant.name);
  row.ours = (*measured)[0].times() - bucket_us;
  row.baseline = (*measured)[1].times() - bucket_us;
  set_ratio(row);
  row.ours_cpu = (*measured)[0].cpu;
  row.baseline_cpu = (*measured)[1].cpu;
  row.samples = (*measured)[0].samples.size();
  row.compares = "daemon call - bucket / in-process call - bucket";
  row.note = "bucket alone " + in_us(bucket_us);
  return row;
}

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  std::vector<FigureRow> rows;
  for (const Variant& variant :
       {Variant{"", figure.artifacts[0], 64, 16}, Variant{"4ms", figure.artifacts[1], 4, 1}}) {
    Result<FigureRow> row = measure_variant(context, figure, variant);
    if (!row) return error(row.error());
    rows.push_back(std::move(*row));
  }
  return rows;
}

}  // namespace

Figure overhead_vs_inprocess() {
  return {.name = "overhead_vs_inprocess",
          .limit = 0.5,
          .artifacts = {"guide_20us", "guide_4ms"},
          .measure = measure};
}

Figure overhead_vs_inprocess_with_state() {
  return {.name = "overhead_vs_inprocess_with_state",
          .limit = 0.25,
          .artifacts = {"state_20us", "state_4ms"},
          .measure = measure};
}

}  // namespace bucketd
