#include "tools/bench/bench_daemon.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

constexpr std::chrono::seconds kServeTimeout{60};
constexpr std::chrono::minutes kLoadTimeout{5};

nlohmann::json wakeup_settings(Waiting waiting) {
  switch (waiting) {
    case Waiting::kDefault:
      return nullptr;
    case Waiting::kSleeping:
      return {{"policy", "futex"}, {"spin_us", 0}};
    case Waiting::kAwake:
      return {{"policy", "futex"}, {"spin_us", std::chrono::microseconds(kAwakeSpin).count()}};
  }
  return nullptr;
}

}  // namespace

Result<BenchDaemon> BenchDaemon::start(Waiting waiting, std::size_t core,
                                       const std::filesystem::path& artifact_folder) {
  nlohmann::json settings = {{"artifact_roots", {artifact_folder}},
                             {"workers", {{{"first_core", core}, {"cores", 1}}}}};
  if (nlohmann::json wakeup = wakeup_settings(waiting); !wakeup.is_null()) {
    settings["wakeup"] = std::move(wakeup);
  }
  Result<LocalDaemon> daemon = LocalDaemon::start(std::move(settings));
  if (!daemon) return error(daemon.error());
  Result<Client> client = Client::connect(client_options(waiting, daemon->socket_path()));
  if (!client) return error(client.error().with_context(daemon->log()));
  Result<DaemonStatus> status = client->status();
  const auto deadline = std::chrono::steady_clock::now() + kServeTimeout;
  while (status && (status->workers.empty() || status->workers[0].state != WorkerState::kServing)) {
    if (std::chrono::steady_clock::now() > deadline) {
      return error(StatusCode::kUnavailable, "the worker does not serve: " + daemon->log());
    }
    status = client->status();
  }
  if (!status) return error(status.error().with_context(daemon->log()));
  const pid_t worker = status->workers[0].pid;
  return BenchDaemon(std::move(*daemon), std::move(*client), worker);
}

Result<Model> BenchDaemon::open(const std::string& artifact) {
  if (std::find(loaded_.begin(), loaded_.end(), artifact) == loaded_.end()) {
    Status status = client_.load_model(artifact + ".pt", artifact,
                                       std::chrono::steady_clock::now() + kLoadTimeout);
    if (!status.ok()) return error(status.with_context(daemon_.log()));
    loaded_.push_back(artifact);
  }
  return client_.open(artifact);
}

Status BenchDaemon::unload(const std::string& artifact) {
  std::erase(loaded_, artifact);
  return client_.unload_model(artifact);
}

std::chrono::nanoseconds BenchDaemon::cpu_time() const {
  return cpu_time_of(daemon_.pid()) + cpu_time_of(worker_pid_);
}

}  // namespace bucketd
