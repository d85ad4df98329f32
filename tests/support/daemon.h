// TestDaemon: a bucketd of the test's own, in a temporary folder.
//
//   TestDaemon daemon(TestDaemon::serving({"multi", "slow"}));
//   ASSERT_TRUE(daemon.start());
//   Client client = daemon.connect();
//   ...
//   daemon.expect_clean_stop();   // also checks that no process and no socket is left
//
// Thread safety: one thread at a time, the one that made it (see ChildProcess).
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "tests/support/child_process.h"
#include "tests/support/notify_socket.h"
#include "tests/support/temporary_directory.h"

namespace bucketd::test {

// Where the build put an executable: "bucketctl".
std::filesystem::path executable(const std::string& name);
// The folder that tests/artifacts/make_test_artifacts.py has filled.
std::filesystem::path artifact_directory();

class TestDaemon {
 public:
  // `config`: as in config/bucketd.yaml (JSON is YAML). Socket path, artifact_roots, and two cores
  // for one worker are filled in where they are missing.
  explicit TestDaemon(nlohmann::json config = {});
  ~TestDaemon();
  TestDaemon(const TestDaemon&) = delete;
  TestDaemon& operator=(const TestDaemon&) = delete;

  // An entry of `models:` for each artifact NAME.pt.
  static nlohmann::json model_list(const std::vector<std::string>& names, int worker = 0);
  // A configuration with nothing but these models.
  static nlohmann::json serving(const std::vector<std::string>& names);

  // Starts it and waits for READY=1; a failed expectation and false if that does not come.
  bool start();
  void start_without_waiting();
  bool wait_until_ready(SteadyTime deadline = patience());

  // A connected client; fails the test and throws when there is none, since no caller could go on.
  Client connect(ClientOptions options = {});
  // The same, and opens a model.
  Model open(const std::string& model, Transport transport = Transport::kRing);

  // SIGTERM, then expects exit code 0, no process and no socket left.
  void expect_clean_stop();
  // SIGKILL, and waits for it and its workers to be gone.
  void kill();

  const std::filesystem::path& directory() const { return directory_.path(); }
  std::filesystem::path socket_path() const { return directory() / "bucketd.sock"; }
  pid_t pid() const { return process_->pid(); }
  ChildProcess& process() { return *process_; }
  NotifySocket& notifications() { return notify_; }
  // What it logged.
  std::string log() const;

 private:
  TemporaryDirectory directory_;
  NotifySocket notify_;
  std::filesystem::path config_path_;
  std::optional<ChildProcess> process_;
};

// For tests whose models crash on purpose, before the daemon is started: a worker that is built
// with the address sanitizer then dies by the signal itself, as others do, instead of writing a
// report.
void expect_models_to_crash();

// Whether this build has a sanitizer that makes everything several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

// Asks `condition` again and again, until it holds or patience ends. For what only a round trip to
// the daemon can tell: each call of `condition` must be one.
template <typename Condition>
bool eventually(Condition condition) {
  const SteadyTime deadline = patience();
  do {
    if (condition()) return true;
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace bucketd::test
