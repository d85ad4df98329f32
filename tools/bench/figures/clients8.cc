// Eight client processes at once, beside the best that one in-process caller gets out of the
// worker's core.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/client_load.h"
#include "tools/bench/fairness.h"
#include "tools/bench/figures/figures.h"

namespace bucketd {
namespace {

constexpr std::size_t kClients = 8;

Result<ClientLoad> load_of_eight(BenchContext& context, const std::string& artifact) {
  return context.once<ClientLoad>("clients8 " + artifact,
                                  [&] { return measure_load(context, artifact, kClients); });
}

std::string rates_text(const ClientLoad& load) {
  return std::to_string(static_cast<long>(median(load.daemon_rates))) + " / " +
         std::to_string(static_cast<long>(median(load.in_process_rates))) +
         " calls/s, best turns " +
         std::to_string(static_cast<long>(
             *std::max_element(load.daemon_rates.begin(), load.daemon_rates.end()))) +
         " / " +
         std::to_string(static_cast<long>(
             *std::max_element(load.in_process_rates.begin(), load.in_process_rates.end())));
}

Result<std::vector<FigureRow>> measure_throughput(BenchContext& context, const Figure& figure) {
  std::vector<FigureRow> rows;
  for (const auto& [artifact, variant] :
       {std::pair{figure.artifacts[0], ""}, std::pair{figure.artifacts[1], "20us"}}) {
    const Result<ClientLoad> load = load_of_eight(context, artifact);
    if (!load) return error(load.error());
    FigureRow row = row_of(figure, variant);
    row.ratio = median(load->daemon_rates) / median(load->in_process_rates);
    row.ours = times_of(load->latencies);
    row.samples = load->calls;
    row.compares = "calls/s of 8 clients / in-process on the worker's core";
    row.note = rates_text(*load);
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<std::vector<FigureRow>> measure_fairness(BenchContext& context, const Figure& figure) {
  std::vector<FigureRow> rows;
  for (const auto& [artifact, variant] :
       {std::pair{figure.artifacts[0], ""}, std::pair{figure.artifacts[1], "20us"}}) {
    const Result<ClientLoad> load = load_of_eight(context, artifact);
    if (!load) return error(load.error());
    FigureRow row = row_of(figure, variant);
    row.ratio = jain_index(load->by_client);
    row.ours = times_of(load->latencies);
    row.samples = load->calls;
    row.compares = "Jain index over the calls of 8 clients";
    const auto [least, most] = std::minmax_element(load->by_client.begin(), load->by_client.end());
    row.note = std::to_string(static_cast<long>(*least)) + " to " +
               std::to_string(static_cast<long>(*most)) + " calls each";
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

Figure clients8_throughput() {
  return {.name = "clients8_throughput",
          .bound = Bound::kMin,
          .limit = 0.97,
          .artifacts = {"guide_4ms", "guide_20us"},
          .measure = measure_throughput};
}

Figure clients8_fairness() {
  return {.name = "clients8_fairness",
          .bound = Bound::kMin,
          .limit = 0.99,
          .artifacts = {"guide_4ms", "guide_20us"},
          .measure = measure_fairness};
}

}  // namespace bucketd
