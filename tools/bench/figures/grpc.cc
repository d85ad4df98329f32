// The probe model beside servers that run the same artifact: gRPC with the tensor in the message
// (the gate), gRPC with the tensor in shared memory, and a plain Unix socket.
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/payload_comparison.h"

namespace bucketd {
namespace {

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure,
                                       std::uint64_t bytes) {
  const Result<std::vector<PayloadSide>> sides = compare_payload(context, bytes);
  if (!sides) return error(sides.error());
  const PayloadSide& daemon = sides->front();
  std::vector<FigureRow> rows;
  for (auto side = sides->begin() + 1; side != sides->end(); ++side) {
    const std::string variant = rows.empty() ? "" : side->name;
    if (!side->skipped.empty()) {
      rows.push_back(skipped_row(figure, side->skipped, variant));
      continue;
    }
    FigureRow row = row_of(figure, variant);
    row.ours = daemon.measured.times();
    row.baseline = side->measured.times();
    set_ratio(row);
    row.ours_cpu = daemon.measured.cpu;
    row.baseline_cpu = side->measured.cpu;
    row.samples = daemon.measured.samples.size();
    row.compares = "daemon / " + side->what;
    rows.push_back(std::move(row));
  }
  return rows;
}

Figure make_figure(std::string name, std::uint64_t bytes, double limit) {
  return {.name = std::move(name),
          .limit = limit,
          .artifacts = {probe_artifact(bytes)},
          .measure = [bytes](BenchContext& context, const Figure& figure) {
            return measure(context, figure, bytes);
          }};
}

}  // namespace

Figure grpc_64b() { return make_figure("grpc_64b", 64, 0.15); }
Figure grpc_1m() { return make_figure("grpc_1m", 1U << 20, 0.05); }
Figure grpc_64m() { return make_figure("grpc_64m", 1U << 26, 0.05); }

}  // namespace bucketd
