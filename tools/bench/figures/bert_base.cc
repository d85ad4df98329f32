// A call on a BERT-base bucket through the daemon, beside that bucket alone in this process.
#include <array>

#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/timed.h"

namespace bucketd {
namespace {

constexpr std::int64_t kTokens = 122;
// A call takes a quarter of a second.
constexpr double kBudgetWeight = 5;

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  const std::string& artifact = figure.artifacts[0];
  Result<BenchDaemon*> daemon = context.daemon(Waiting::kDefault);
  if (!daemon) return error(daemon.error());
  FigureRow row = row_of(figure);
  {
    Result<Model> model = (*daemon)->open(artifact);
    if (!model) return error(model.error());
    Result<DaemonCaller> caller =
        DaemonCaller::make(*model, shapes_of(model->description(), 0, kTokens));
    if (!caller) return error(caller.error());
    Result<InProcessModel*> local = context.in_process(artifact);
    if (!local) return error(local.error());
    if (Status status = (*local)->use(caller->inputs().views()); !status.ok()) return error(status);

    // The bucket alone runs where the worker would run it: two cores need not be equally fast.
    pin_to_cpu(context.server_cpu());
    LocalSide through_daemon([&] { return caller->call(); }, [&] { return (*daemon)->cpu_time(); });
    LocalSide bucket([&] { return timed([&] { return (*local)->run_bucket(); }); });
    const std::array<Side*, 2> sides = {&through_daemon, &bucket};
    const Result<std::vector<Measured>> measured =
        alternate(sides, {.budget = context.budget(kBudgetWeight)});
    if (!measured) return error(measured.error());
    row.ours = (*measured)[0].times();
    row.baseline = (*measured)[1].times();
    set_ratio(row);
    row.ours_cpu = (*measured)[0].cpu;
    row.baseline_cpu = (*measured)[1].cpu;
    row.samples = (*measured)[0].samples.size();
    row.compares = "daemon call / bucket alone in-process";
  }
  context.forget_in_process(artifact);
  if (Status status = (*daemon)->unload(artifact); !status.ok()) return error(status);
  return std::vector<FigureRow>{row};
}

}  // namespace

Figure bert_base() {
  return {.name = "bert_base", .limit = 1.01, .artifacts = {"bert_1"}, .measure = measure};
}

}  // namespace bucketd
