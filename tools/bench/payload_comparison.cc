#include "tools/bench/payload_comparison.h"

#include <memory>
#include <utility>

#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/turn_process.h"

namespace bucketd {
namespace {

constexpr const char* kGrpcPackages =
    "the gRPC baseline was not built: package libgrpc++-dev, libprotobuf-dev or "
    "protobuf-compiler-grpc is missing";

struct Baseline {
  const char* name;
  const char* program;
  const char* mode;
  const char* what;
  const char* packages;  // why it may not be there
};

constexpr Baseline kBaselines[] = {
    {"grpc_message", "bucketd-bench-grpc", "message", "gRPC, tensor in the message", kGrpcPackages},
    {"grpc_shm", "bucketd-bench-grpc", "shm", "gRPC, tensor in shared memory", kGrpcPackages},
    {"socket", "bucketd-bench-socket", "inline", "Unix socket, tensor inline",
     "bucketd-bench-socket was not built"},
};

// Above this a call takes so long that a turn has to be short.
constexpr std::uint64_t kLargeBytes = 1U << 16;

Pace pace_of(const BenchContext& context, std::uint64_t bytes) {
  if (bytes <= kLargeBytes) {
    return {.budget = context.budget(), .calls_per_turn = 32, .warm_up_per_turn = 8};
  }
  return {.budget = context.budget(1.5), .calls_per_turn = 4, .warm_up_per_turn = 1};
}

}  // namespace

std::string probe_artifact(std::uint64_t bytes) { return "probe_" + std::to_string(bytes); }

Result<std::vector<PayloadSide>> compare_payload(BenchContext& context, std::uint64_t bytes) {
  const std::string artifact = probe_artifact(bytes);
  Result<BenchDaemon*> daemon = context.daemon(Waiting::kDefault);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(artifact);
  if (!model) return error(model.error());
  Result<DaemonCaller> caller = DaemonCaller::make(*model, shapes_of(model->description(), 0));
  if (!caller) return error(caller.error());
  pin_to_cpu(context.client_cpu());
  LocalSide through_daemon([&] { return caller->call_generating(); },
                           [&] { return (*daemon)->cpu_time(); });

  std::vector<PayloadSide> result = {{"daemon", "bucketd"}};
  std::vector<Side*> sides = {&through_daemon};
  std::vector<std::unique_ptr<TurnProcess>> processes;
  for (const Baseline& baseline : kBaselines) {
    result.push_back({baseline.name, baseline.what});
    Result<std::unique_ptr<TurnProcess>> process = TurnProcess::start(
        baseline.program,
        {"--mode", baseline.mode, "--artifact", context.artifact(artifact), "--bytes",
         std::to_string(bytes), "--client-cpu", std::to_string(context.client_cpu()),
         "--server-cpu", std::to_string(context.server_cpu())});
    if (!process && process.error().code() == StatusCode::kNotFound) {
      result.back().skipped = baseline.packages;
      continue;
    }
    if (!process) return error(process.error());
    sides.push_back(process->get());
    processes.push_back(std::move(*process));
  }
  Result<std::vector<Measured>> measured = alternate(sides, pace_of(context, bytes));
  if (!measured) return error(measured.error());
  auto next = measured->begin();
  for (PayloadSide& side : result) {
    if (side.skipped.empty()) side.measured = std::move(*next++);
  }
  return result;
}

}  // namespace bucketd
