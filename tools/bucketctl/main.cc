// bucketctl: looks at and steers a running bucketd. Usage and exit codes: ../README.md.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "bucketd/client.h"
#include "tools/bucketctl/exit_code.h"
#include "tools/bucketctl/infer.h"
#include "tools/bucketctl/render.h"
#include "tools/bucketctl/text_table.h"

namespace bucketd {
namespace {

using std::chrono::milliseconds;

struct Arguments {
  std::string socket;
  double timeout_s = 30;
  bool wait = false;
  bool json = false;
  std::string transport = "ring";
  std::string model;       // describe, unload
  std::string session;     // session close, reset, restore
  bool all_users = false;  // sessions
  std::string load_path;   // load
  std::string load_name;
  InferArguments infer;
};

// How one command ended: a status, and on success what to print.
struct Outcome {
  Status status;
  std::string text;
  nlohmann::json json;
};

template <typename T, typename ToText, typename ToJson>
Outcome outcome_of(const Result<T>& result, ToText to_text, ToJson to_json) {
  if (!result) return {result.error(), {}, {}};
  return {{}, to_text(*result), to_json(*result)};
}

Outcome done(const Status& status, const std::string& text) {
  return {status, text + "\n", {{"ok", true}}};
}

int report(const Outcome& outcome, const Arguments& arguments) {
  if (outcome.status.ok()) {
    std::cout << (arguments.json ? outcome.json.dump(2) + "\n" : outcome.text) << std::flush;
    if (std::cout) return static_cast<int>(ExitCode::kOk);
    std::cerr << "bucketctl: cannot write to standard output\n";
    return static_cast<int>(ExitCode::kRequestFailed);
  }
  // Errors go to standard error in both forms: what stands on standard output is always a result.
  if (arguments.json) {
    std::cerr << error_json(outcome.status).dump(2) << "\n";
  } else {
    std::cerr << "bucketctl: " << printable(outcome.status.to_string()) << "\n";
  }
  return static_cast<int>(exit_code_of(outcome.status.code()));
}

Outcome run(const CLI::App& app, Arguments& arguments) {
  const milliseconds timeout(std::llround(arguments.timeout_s * 1000));
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  ClientOptions options;
  options.socket_path = arguments.socket;
  options.transport = arguments.transport == "stream" ? Transport::kStream : Transport::kRing;
  options.connect_timeout = arguments.wait ? timeout : milliseconds(0);
  options.reconnect_timeout = timeout;
  options.name = "bucketctl";
  Result<Client> client = Client::connect(options);
  if (!client) return {client.error(), {}, {}};

  if (app.got_subcommand("status")) {
    return outcome_of(client->status(), status_text, status_json);
  }
  if (app.got_subcommand("models")) {
    return outcome_of(client->models(), models_text, models_json);
  }
  if (app.got_subcommand("describe")) {
    if (arguments.wait) {
      // Who opens a model waits for it to be loaded.
      const Result<Model> ready = client->open(arguments.model, deadline);
      if (!ready) return {ready.error(), {}, {}};
    }
    return outcome_of(client->describe(arguments.model), description_text, description_json);
  }
  if (app.got_subcommand("infer")) {
    arguments.infer.deadline = deadline;
    return outcome_of(infer(*client, arguments.infer), infer_text, infer_json);
  }
  if (app.got_subcommand("sessions")) {
    SessionListing listing;
    Result<std::vector<SessionSummary>> sessions =
        client->sessions(arguments.all_users, &listing.is_complete);
    if (!sessions) return {sessions.error(), {}, {}};
    listing.sessions = std::move(*sessions);
    return {{}, sessions_text(listing), sessions_json(listing)};
  }
  if (app.got_subcommand("session")) {
    const CLI::App& session = *app.get_subcommand("session");
    if (session.got_subcommand("reset")) {
      return done(client->reset_session(arguments.session, deadline),
                  "reset session " + printable(arguments.session));
    }
    if (session.got_subcommand("restore")) {
      return done(client->restore_session(arguments.session, deadline),
                  "restored session " + printable(arguments.session));
    }
    return done(client->close_session(arguments.session),
                "closed session " + printable(arguments.session));
  }
  if (app.got_subcommand("load")) {
    return done(client->load_model(arguments.load_path, arguments.load_name, deadline),
                "loaded " + printable(arguments.load_path));
  }
  return done(client->unload_model(arguments.model), "unloaded " + printable(arguments.model));
}

int bucketctl_main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Looks at and steers a running bucketd.", "bucketctl");
  app.require_subcommand(1);
  app.fallthrough();  // options of the whole program may follow the command
  app.footer(
      "Exit codes: 0 done, 1 the request failed, 2 wrong usage, 3 no daemon,\n"
      "4 not found, 5 permission denied, 6 timed out.");
  app.add_option(
      "--socket", arguments.socket,
      "the daemon's socket [$BUCKETD_SOCKET, else " + std::string(kDefaultSocketPath) + "]");
  app.add_option("--timeout", arguments.timeout_s, "seconds for the whole command")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_flag("--wait", arguments.wait,
               "wait for a daemon that is not there yet, and for MODEL to be loaded");
  app.add_flag("--json", arguments.json, "results and errors as JSON");

  app.add_subcommand("status", "the daemon, its workers and models");
  app.add_subcommand("models", "the models and their states");
  CLI::App* describe =
      app.add_subcommand("describe", "inputs, outputs, buckets, and how they get their states");
  describe->add_option("MODEL", arguments.model)->required();

  CLI::App* sessions = app.add_subcommand("sessions", "the user's sessions");
  sessions->add_flag("--all", arguments.all_users, "of every user (administrators)");
  CLI::App* session = app.add_subcommand("session", "one session");
  session->require_subcommand(1);
  CLI::App* close = session->add_subcommand("close", "end it: its state is gone");
  close->add_option("ID", arguments.session)->required();
  CLI::App* reset =
      session->add_subcommand("reset", "give one that is torn or idle its initial values");
  reset->add_option("ID", arguments.session)->required();
  CLI::App* restore =
      session->add_subcommand("restore", "give one that is torn or idle its last checkpoint");
  restore->add_option("ID", arguments.session)->required();

  CLI::App* infer = app.add_subcommand("infer", "run a model once on .npy files");
  infer->add_option("MODEL", arguments.infer.model)->required();
  infer->add_option("-i,--input", arguments.infer.inputs, "NAME_OR_INDEX=FILE.npy, for every input")
      ->required()
      ->expected(1)
      ->take_all();
  infer->add_option("-o,--output", arguments.infer.output_directory,
                    "folder for the outputs, one NAME.npy each");
  infer->add_option("--transport", arguments.transport, "ring or stream")
      ->capture_default_str()
      ->check(CLI::IsMember({"ring", "stream"}));

  CLI::App* load = app.add_subcommand("load", "load, or replace, a model (administrators)");
  load->add_option("PATH", arguments.load_path, "an artifact beneath the daemon's artifact_roots")
      ->required();
  load->add_option("--name", arguments.load_name, "instead of the artifact's own name");
  CLI::App* unload = app.add_subcommand("unload", "unload a model (administrators)");
  unload->add_option("MODEL", arguments.model)->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    const int code = app.exit(problem);  // prints help, or what is wrong
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  return report(run(app, arguments), arguments);
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) { return bucketd::bucketctl_main(argc, argv); }
