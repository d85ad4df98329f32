// iceoryx 2 request/response of 64 bytes, the server echoes.
//   --mode waiting: both sides sleep on a WaitSet;  --mode polling: both look all the time.
// Starts RouDi, iceoryx's daemon, unless one runs.
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <iceoryx_hoofs/log/logmanager.hpp>
#include <iceoryx_posh/popo/client.hpp>
#include <iceoryx_posh/popo/server.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <memory>
#include <string>
#include <utility>

#include "common/futex.h"
#include "common/memfd.h"
#include "tools/bench/baselines/baseline_program.h"
#include "tools/bench/baselines/roudi.h"
#include "tools/bench/cpu.h"
#include "tools/bench/turn_program.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kPageBytes = 4096;

struct Payload {
  std::byte bytes[64];
};
using Client = iox::popo::Client<Payload, Payload>;
using Server = iox::popo::Server<Payload, Payload>;

// Polling servers sleep while this is 0: between turns their CPU belongs to others.
using Turn = std::atomic<std::uint32_t>;

void serve(const std::string& name, const iox::capro::ServiceDescription& service, bool polling,
           const Turn& turn) {
  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kOff);
  iox::runtime::PoshRuntime::initRuntime(iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name));
  Server server(service);
  iox::popo::WaitSet<1> wait_set;
  if (!polling && wait_set.attachState(server, iox::popo::ServerState::HAS_REQUEST).has_error()) {
    return;
  }
  while (true) {
    if (!polling) {
      wait_set.wait();
    } else if (turn.load(std::memory_order_relaxed) == 0) {
      futex_wait(turn, 0, std::nullopt);
    }
    server.take().and_then([&server](const auto& request) {
      server.loan(request)
          .and_then([&request](auto& response) {
            *response = *request;
            response.send().or_else([](const auto&) {});
          })
          .or_else([](const auto&) {});
    });
  }
}

Result<TurnCaller> make_caller(const BaselineOptions& options) {
  const bool polling = options.mode == "polling";
  Result<UniqueFd> fd = create_memfd("bucketd-bench-iceoryx", kPageBytes);
  if (!fd) return error(fd.error());
  Result<MappedRegion> region = map_memfd(fd->get(), kPageBytes, MapAccess::kReadWrite);
  if (!region) return error(region.error());
  const auto memory = std::make_shared<MappedRegion>(std::move(*region));
  auto& turn = *static_cast<Turn*>(memory->get_address());

  Result<Roudi> roudi = Roudi::start();
  if (!roudi) return error(roudi.error());
  const auto kept_roudi = std::make_shared<Roudi>(std::move(*roudi));
  const std::string name = "bucketd-bench-" + std::to_string(::getpid());
  const iox::capro::ServiceDescription service{
      "bucketd", "bench", iox::capro::IdString_t(iox::cxx::TruncateToCapacity, name)};
  Result<BaselineServer> server =
      BaselineServer::start(options, [&] { serve(name + "-server", service, polling, turn); });
  if (!server) return error(server.error());
  const auto kept = std::make_shared<BaselineServer>(std::move(*server));

  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kOff);
  iox::runtime::PoshRuntime::initRuntime(
      iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name + "-client"));
  const auto client = std::make_shared<Client>(service);
  const auto wait_set = std::make_shared<iox::popo::WaitSet<1>>();
  if (!polling &&
      wait_set->attachState(*client, iox::popo::ClientState::HAS_RESPONSE).has_error()) {
    return error(StatusCode::kInternal, "iceoryx: cannot attach the client to the WaitSet");
  }
  while (client->getConnectionState() != iox::ConnectionState::CONNECTED) ::usleep(1000);

  TurnCaller caller;
  caller.call = [kept_roudi, client, wait_set, polling]() -> Result<nanoseconds> {
    Payload payload{};
    bool failed = false;
    const Clock::time_point started = Clock::now();
    client->loan()
        .and_then([&payload, &failed](auto& request) {
          *request = payload;
          request.send().or_else([&failed](const auto&) { failed = true; });
        })
        .or_else([&failed](const auto&) { failed = true; });
    for (bool answered = false; !answered && !failed;) {
      if (!polling) wait_set->wait();
      client->take().and_then([&payload, &answered](const auto& response) {
        payload = *response;
        answered = true;
      });
    }
    const auto took = Clock::now() - started;
    if (failed) return error(StatusCode::kInternal, "iceoryx: cannot send a request");
    return took;
  };
  caller.server_cpu = [kept] { return cpu_time_of(kept->pid()); };
  caller.begin_turn = [&turn, memory] {
    turn.store(1, std::memory_order_release);
    futex_wake(turn, 1);
  };
  caller.end_turn = [&turn] { turn.store(0, std::memory_order_release); };
  return caller;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  const bucketd::BaselineOptions options = bucketd::parse_baseline_options(
      argc, argv, "iceoryx request/response between two processes.");
  return bucketd::serve_turns([&options] { return bucketd::make_caller(options); });
}
