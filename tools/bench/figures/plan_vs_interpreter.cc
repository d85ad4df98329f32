// What the guide's kernel costs as a plan, beside what it costs in TorchScript's interpreter.
// Tensor objects around the plan's result are not counted: the daemon's wrap() makes them either
// way.
#include <fcntl.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "common/fd.h"
#include "daemon/backends/backend.h"
#include "daemon/plans/plan.h"
#include "daemon/worker/plan_cache.h"
#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/timed.h"

namespace bucketd {
namespace {

constexpr std::int64_t kTokens = 122;
// A plan takes less than a reading of the clock: so many at once.
constexpr int kBatch = 100;
constexpr std::uint32_t kMaxPlans = 64;

struct alignas(64) Line {
  std::byte bytes[64];
};

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  Result<std::unique_ptr<Backend>> backend = make_torchscript_backend({});
  if (!backend) return error(backend.error());
  (*backend)->prepare_executor_thread(0);
  const UniqueFd file(::open(context.artifact(figure.artifacts[0]).c_str(), O_RDONLY | O_CLOEXEC));
  Result<std::unique_ptr<BucketModel>> model = (*backend)->load(file.get(), "");
  if (!model) return error(model.error());
  const ModelDescription& description = (*model)->description();
  const OnesInputs inputs(description, shapes_of(description, 0, kTokens));
  std::vector<TensorSignature> signature;
  std::vector<const std::byte*> sources;
  for (const ConstTensorView& view : inputs.views()) {
    signature.push_back({view.dtype, view.shape});
    sources.push_back(view.data);
  }
  Plan plan;
  if (Status status = (*model)->plan(signature, plan); !status.ok()) {
    return std::vector<FigureRow>{
        skipped_row(figure, "the guide's kernel has no plan: " + status.to_string())};
  }
  PlanCache plans(kMaxPlans);
  plans.insert(plan);
  std::vector<Line> memory(plan.private_bytes / sizeof(Line) + 1);

  pin_to_cpu(context.client_cpu());
  // As the worker does for a raw request: finds the plan by the signature and lays the inputs out.
  LocalSide planned([&]() -> Result<std::chrono::nanoseconds> {
    const Result<std::chrono::nanoseconds> took = timed([&] {
      for (int i = 0; i < kBatch; ++i) lay_out(*plans.find(signature), sources, memory[0].bytes);
      return Status();
    });
    if (!took) return took;
    return *took / kBatch;
  });
  Result<InProcessModel*> local = context.in_process(figure.artifacts[0]);
  if (!local) return error(local.error());
  if (Status status = (*local)->use(inputs.views()); !status.ok()) return error(status);
  LocalSide interpreted([&] { return timed([&] { return (*local)->run_kernel(); }); });
  const std::array<Side*, 2> sides = {&planned, &interpreted};
  const Result<std::vector<Measured>> measured = alternate(
      sides, {.budget = context.budget(0.5), .calls_per_turn = 64, .warm_up_per_turn = 8});
  if (!measured) return error(measured.error());
  FigureRow row = row_of(figure);
  row.ours = (*measured)[0].times();
  row.baseline = (*measured)[1].times();
  set_ratio(row);
  row.samples = (*measured)[0].samples.size();
  row.compares = "plan: look-up and layout / bucket kernel in the interpreter";
  row.note = "plan " + std::to_string((*measured)[0].times().p50_us * 1000) + " ns";
  return std::vector<FigureRow>{row};
}

}  // namespace

Figure plan_vs_interpreter() {
  return {.name = "plan_vs_interpreter",
          .limit = 0.02,
          .artifacts = {"guide_20us"},
          .cpus = 1,
          .measure = measure};
}

}  // namespace bucketd
