// What eight buckets of one set of weights cost a worker in memory, beside one bucket of it.
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/bench_context.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/figures/figures.h"

namespace bucketd {
namespace {

// Resident KiB of a process, shared pages included; nothing if the kernel does not say.
std::optional<double> resident_kib(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmRSS:" && status >> kib) return kib;
  }
  return std::nullopt;
}

// Of a worker that has that model alone and has run each of its buckets.
Result<double> worker_kib(BenchContext& context, const std::string& artifact) {
  Result<BenchDaemon> daemon =
      BenchDaemon::start(Waiting::kDefault, context.server_core(), context.artifact_folder());
  if (!daemon) return error(daemon.error());
  Result<Model> model = daemon->open(artifact);
  if (!model) return error(model.error());
  const ModelDescription description = model->description();
  for (std::size_t bucket = 0; bucket < description.buckets.size(); ++bucket) {
    Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(description, bucket));
    if (!caller) return error(caller.error());
    if (const auto took = caller->call(); !took) return error(took.error());
  }
  const std::optional<double> kib = resident_kib(daemon->worker_pid());
  if (!kib) return error(StatusCode::kUnavailable, "/proc does not tell the worker's memory");
  return *kib;
}

Result<std::vector<FigureRow>> measure(BenchContext& context, const Figure& figure) {
  const Result<double> eight = worker_kib(context, figure.artifacts[0]);
  if (!eight) return error(eight.error());
  const Result<double> one = worker_kib(context, figure.artifacts[1]);
  if (!one) return error(one.error());
  FigureRow row = row_of(figure);
  row.ratio = *eight / *one;
  row.samples = 1;
  row.compares = "resident memory of a worker, 8 BERT-base buckets / 1";
  row.note = std::to_string(static_cast<long>(*eight / 1024)) + " / " +
             std::to_string(static_cast<long>(*one / 1024)) + " MiB";
  return std::vector<FigureRow>{row};
}

}  // namespace

Figure weights_memory() {
  return {.name = "weights_memory",
          .limit = 1.1,
          .artifacts = {"bert_8", "bert_1"},
          .cpus = 1,
          .measure = measure};
}

}  // namespace bucketd
