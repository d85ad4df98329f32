// Many client processes at once: each gets its own answers, and everything that the daemon held for
// them is gone when they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGKILL

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

// More than a futex_waitv can wait for (kMaxFutexWords), and below the default quota of a user.
constexpr int kProcesses = 150;

bool is_long_run() { return std::getenv("BUCKETD_LONG") != nullptr; }

ChildProcess start_client(const TestDaemon& daemon, int seed, int calls,
                          const std::string& transport, const std::string& output) {
  return ChildProcess(
      executable("bucketd-test-client"),
      {.arguments = {"--socket", daemon.socket_path(), "--seed", std::to_string(seed), "--calls",
                     std::to_string(calls), "--transport", transport},
       .output = daemon.directory() / output});
}

void expect_nothing_held_for_others(TestDaemon& daemon) {
  Client watcher = daemon.connect();
  DaemonStatus last;
  EXPECT_TRUE(eventually([&] {
    const Result<DaemonStatus> status = watcher.status();
    if (!status) return false;
    last = *status;
    return last.connections == 1 && last.channels == 0 && last.lanes == 0 && last.sessions == 0;
  })) << last.connections
      << " connections, " << last.channels << " channels, " << last.lanes << " lanes are held";
}

class ManyClients : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon_.start()); }
  TestDaemon daemon_{TestDaemon::serving({"multi"})};
};

TEST_P(ManyClients, at_once_each_gets_its_own_answers_and_leaves_nothing) {
  const int calls = is_long_run() ? 5000 : 100;
  std::vector<ChildProcess> clients;
  for (int i = 0; i < kProcesses; ++i) {
    clients.push_back(start_client(daemon_, i, calls, GetParam(), "client"));
  }
  int failed = 0;
  const SteadyTime deadline = std::chrono::steady_clock::now() + std::chrono::minutes(8);
  for (ChildProcess& client : clients) failed += client.exit_code(deadline) == 0 ? 0 : 1;
  EXPECT_EQ(failed, 0) << read_text(daemon_.directory() / "client");
  expect_nothing_held_for_others(daemon_);
  daemon_.expect_clean_stop();
}

TEST_P(ManyClients, killed_in_the_middle_leave_nothing_and_disturb_nobody) {
  const int rounds = is_long_run() ? 50 : 3;
  ChildProcess bystander = start_client(daemon_, 0, 0, GetParam(), "bystander");
  for (int round = 0; round < rounds; ++round) {
    std::vector<ChildProcess> clients;
    for (int i = 0; i < 20; ++i) {
      clients.push_back(start_client(daemon_, i, 0, GetParam(), "killed" + std::to_string(i)));
    }
    // Each is at work when it dies.
    for (int i = 0; i < 20; ++i) {
      const auto output = daemon_.directory() / ("killed" + std::to_string(i));
      Client pace = daemon_.connect();
      ASSERT_TRUE(eventually([&] {
        (void)pace.models();
        return !read_text(output).empty();
      })) << "client "
          << i << " got no answer";
    }
    for (ChildProcess& client : clients) client.send(SIGKILL);
    for (ChildProcess& client : clients) EXPECT_EQ(client.exit_code(), 128 + SIGKILL);
    for (int i = 0; i < 20; ++i) {
      std::filesystem::remove(daemon_.directory() / ("killed" + std::to_string(i)));
    }
  }
  EXPECT_FALSE(bystander.wait(SteadyTime::min()))
      << "the bystander ended: " << read_text(daemon_.directory() / "bystander");
  bystander.send(SIGKILL);
  bystander.wait();
  expect_nothing_held_for_others(daemon_);
  daemon_.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, ManyClients, ::testing::Values("ring", "stream"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bucketd::test
