// One client process of a daemon, for figures that need several, or one that is looked at from
// outside. Links no LibTorch. Started by bucketd-bench.
//   --mode single: one request at a time;
//   --mode pipelined: always kDepth requests in flight, looks for answers without ever sleeping.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tools/bench/cpu.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/syscall_marker.h"
#include "tools/bench/turn_program.h"
#include "tools/bench/waiting.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;

// Requests in flight: enough that the worker never runs out of them while a client submits one.
constexpr std::size_t kDepth = 4;

struct ClientProgramOptions {
  std::string socket;
  std::string model;
  std::string mode = "single";
  std::string waiting = "default";
  std::int64_t size = 0;  // of the dims that the model pads; 0: the first bucket, full
  int cpu = -1;
  bool mark = false;  // shows a tracer where the timed calls begin and end
};

Waiting waiting_of(const std::string& name) {
  if (name == "sleeping") return Waiting::kSleeping;
  return name == "awake" ? Waiting::kAwake : Waiting::kDefault;
}

Result<TurnCaller> make_caller(const ClientProgramOptions& options) {
  if (options.cpu >= 0) pin_to_cpu(options.cpu);
  Result<Client> client =
      Client::connect(client_options(waiting_of(options.waiting), options.socket));
  if (!client) return error(client.error());
  Result<Model> model = client->open(options.model);
  if (!model) return error(model.error());
  const std::optional<std::int64_t> size =
      options.size > 0 ? std::optional(options.size) : std::nullopt;
  Result<DaemonCaller> made = DaemonCaller::make(*model, shapes_of(model->description(), 0, size));
  if (!made) return error(made.error());
  const auto caller = std::make_shared<DaemonCaller>(std::move(*made));
  const auto kept = std::make_shared<Client>(std::move(*client));
  TurnCaller turns;
  if (options.mode == "pipelined") {
    turns.call = [caller, kept] { return caller->call_pipelined(kDepth); };
  } else {
    turns.call = [caller, kept] { return caller->call(); };
  }
  if (options.mark) {
    turns.begin_timed = [] { mark_for_tracer(); };
    turns.end_turn = [] { mark_for_tracer(); };
  }
  return turns;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  bucketd::ClientProgramOptions options;
  CLI::App app("One client process. Started by bucketd-bench.");
  app.add_option("--socket", options.socket)->required();
  app.add_option("--model", options.model)->required();
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"single", "pipelined"}));
  app.add_option("--waiting", options.waiting)
      ->check(CLI::IsMember({"default", "sleeping", "awake"}));
  app.add_option("--size", options.size);
  app.add_option("--cpu", options.cpu);
  app.add_flag("--mark", options.mark);
  CLI11_PARSE(app, argc, argv);
  return bucketd::serve_turns([&options] { return bucketd::make_caller(options); });
}
