#include "tools/bench/client_load.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/turn_process.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kTokens = 122;
// Long enough that what begins and ends in it does not matter.
constexpr std::chrono::milliseconds kTurn{500};
constexpr std::size_t kLeastRounds = 3;

Status run_clients(std::vector<std::unique_ptr<TurnProcess>>& clients, ClientLoad* load) {
  const Clock::time_point started = Clock::now();
  for (const auto& client : clients) {
    if (Status status = client->begin({0, 0, nanoseconds(kTurn).count()}); !status.ok()) {
      return status;
    }
  }
  std::size_t calls = 0;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    std::vector<nanoseconds> samples;
    if (Status status = clients[i]->finish(samples); !status.ok()) return status;
    calls += samples.size();
    if (load == nullptr) continue;
    load->by_client[i] += static_cast<double>(samples.size());
    load->latencies.insert(load->latencies.end(), samples.begin(), samples.end());
  }
  if (load == nullptr) return {};
  const std::chrono::duration<double> took = Clock::now() - started;
  load->daemon_rates.push_back(static_cast<double>(calls) / took.count());
  load->calls += calls;
  return {};
}

Status run_in_process(InProcessModel& local, ClientLoad* load) {
  const Clock::time_point started = Clock::now();
  std::size_t calls = 0;
  Clock::time_point now = started;
  for (; now - started < kTurn; now = Clock::now()) {
    if (Status status = local.forward(); !status.ok()) return status;
    ++calls;
  }
  if (load == nullptr) return {};
  const std::chrono::duration<double> took = now - started;
  load->in_process_rates.push_back(static_cast<double>(calls) / took.count());
  return {};
}

}  // namespace

Result<ClientLoad> measure_load(BenchContext& context, const std::string& artifact,
                                std::size_t client_count) {
  Result<BenchDaemon*> daemon = context.daemon(Waiting::kDefault);
  if (!daemon) return error(daemon.error());
  Result<Model> model = (*daemon)->open(artifact);
  if (!model) return error(model.error());
  const OnesInputs inputs(model->description(), shapes_of(model->description(), 0, kTokens));
  Result<InProcessModel*> local = context.in_process(artifact);
  if (!local) return error(local.error());
  if (Status status = (*local)->use(inputs.views()); !status.ok()) return error(status);

  std::vector<std::unique_ptr<TurnProcess>> clients;
  for (std::size_t i = 0; i < client_count; ++i) {
    Result<std::unique_ptr<TurnProcess>> client =
        TurnProcess::start("bucketd-bench-client", {"--socket", (*daemon)->socket_path(), "--model",
                                                    artifact, "--size", std::to_string(kTokens),
                                                    "--cpu", std::to_string(context.client_cpu())});
    if (!client) return error(client.error());
    clients.push_back(std::move(*client));
  }
  pin_to_cpu(context.server_cpu());
  ClientLoad load;
  load.by_client.resize(client_count);
  const Clock::time_point started = Clock::now();
  for (std::size_t round = 0; round <= kLeastRounds || Clock::now() - started < context.budget(1);
       ++round) {
    ClientLoad* const kept = round == 0 ? nullptr : &load;
    // Waiting for reports takes nothing from the core.
    if (Status status = run_clients(clients, kept); !status.ok()) return error(status);
    if (Status status = run_in_process(**local, kept); !status.ok()) return error(status);
  }
  return load;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace bucketd
