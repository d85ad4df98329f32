// System calls per request while client and worker both have something to do all the time, counted
// from outside.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/syscall_tracer.h"
#include "tools/bench/turn_process.h"

namespace bucketd {
namespace {

constexpr std::uint64_t kRequests = 10000;
constexpr std::uint64_t kWarmUp = 5000;
// A machine with other work takes the CPU away from either side now and then; the other one then
// rightly falls asleep, which is not being busy. So many windows of kRequests are tried.
constexpr int kMostWindows = 5;

struct Variant {
  const char* name;  // empty: the gate
  Waiting waiting;
  const char* waiting_name;
  const char* mode;
};

Result<FigureRow> measure_variant(BenchContext& context, const Figure& figure,
                                  const Variant& variant) {
  Result<BenchDaemon*> daemon = context.daemon(variant.waiting);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(figure.artifacts[0]);
  if (!model) return error(model.error());
  Result<std::unique_ptr<TurnProcess>> client = TurnProcess::start(
      "bucketd-bench-client",
      {"--socket", (*daemon)->socket_path(), "--model", figure.artifacts[0], "--mode", variant.mode,
       "--waiting", variant.waiting_name, "--cpu", std::to_string(context.client_cpu()), "--mark"});
  if (!client) return error(client.error());

  FigureRow row = row_of(figure, variant.name);
  row.compares = "system calls a request, the busier of executor and client thread";
  const pid_t client_thread = (*client)->pid();
  const std::vector<pid_t> executors = threads_named((*daemon)->worker_pid(), "executor-");
  if (executors.empty()) return error(StatusCode::kInternal, "the worker has no executor thread");
  std::vector<pid_t> threads = executors;
  threads.push_back(client_thread);
  for (int window = 1; window <= kMostWindows; ++window) {
    SyscallTracer tracer;
    for (const pid_t thread : threads) {
      if (Status status = tracer.attach(thread); !status.ok()) {
        row.skipped = status.message();
        return row;
      }
    }
    if (Status status = (*client)->begin({kWarmUp, kRequests, 0}); !status.ok()) {
      return error(status);
    }
    if (Status status = tracer.count_between_markers(client_thread); !status.ok()) {
      return error(status);
    }
    tracer.detach();
    std::vector<std::chrono::nanoseconds> samples;
    if (Status status = (*client)->finish(samples); !status.ok()) return error(status);
    std::uint64_t most = 0;
    for (const pid_t thread : threads) most = std::max(most, tracer.calls(thread));
    const double ratio = static_cast<double>(most) / static_cast<double>(kRequests);
    if (!row.ratio || ratio < *row.ratio) {
      row.ratio = ratio;
      row.ours = times_of(samples);
      row.note = "window " + std::to_string(window) +
                 "; executor: " + tracer.calls_text(executors[0]) +
                 "; client: " + tracer.calls_text(client_thread);
    }
    row.samples = kRequests;
    if (most == 0) break;
  }
  return row;
}

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  std::vector<FigureRow> rows;
  for (const Variant& variant : {Variant{"", Waiting::kDefault, "default", "pipelined"},
                                 Variant{"one_at_a_time", Waiting::kAwake, "awake", "single"}}) {
    Result<FigureRow> row = measure_variant(context, figure, variant);
    if (!row) return error(row.error());
    rows.push_back(std::move(*row));
  }
  return rows;
}

}  // namespace

Figure syscalls_busy() {
  return {.name = "syscalls_busy", .limit = 0, .artifacts = {"identity"}, .measure = measure};
}

}  // namespace bucketd
