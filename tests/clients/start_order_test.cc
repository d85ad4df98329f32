// It does not matter who starts first, and who is restarted: clients wait, and go on by themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/support/background_calls.h"
#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {
namespace {

using ::testing::AnyOf;

class StartOrder : public ::testing::TestWithParam<Transport> {
 protected:
  std::string transport_name() const { return GetParam() == Transport::kRing ? "ring" : "stream"; }
  ChildProcess start_client(const std::string& calls, const std::string& output) {
    return ChildProcess(executable("bucketd-test-client"),
                        {.arguments = {"--socket", daemon_.socket_path(), "--calls", calls,
                                       "--transport", transport_name(), "--survive-restarts"},
                         .output = daemon_.directory() / output});
  }
  TestDaemon daemon_{TestDaemon::serving({"multi", "slow"})};
};

TEST_P(StartOrder, clients_may_start_before_the_daemon) {
  std::vector<ChildProcess> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(start_client("50", "client"));
  ASSERT_TRUE(daemon_.start());
  for (ChildProcess& client : clients) {
    EXPECT_EQ(client.exit_code(), 0) << read_text(daemon_.directory() / "client");
  }
  daemon_.expect_clean_stop();
}

TEST_P(StartOrder, a_model_may_be_opened_while_it_is_loading) {
  daemon_.start_without_waiting();
  Client client =
      daemon_.connect({.transport = GetParam(), .connect_timeout = std::chrono::seconds(60)});
  Result<Model> model = client.open("multi");
  ASSERT_TRUE(model) << model.error().to_string();
  EXPECT_EQ(call_multi(*model), Status());
  ASSERT_TRUE(daemon_.wait_until_ready());
  daemon_.expect_clean_stop();
}

TEST_P(StartOrder, without_a_daemon_one_attempt_fails_at_once_and_says_what_to_do) {
  const Result<Client> client =
      Client::connect({.socket_path = daemon_.socket_path(), .transport = GetParam()});
  ASSERT_FALSE(client) << "connected to nobody";
  EXPECT_EQ(client.error().code(), StatusCode::kUnavailable) << client.error().to_string();
}

TEST_P(StartOrder, a_client_goes_on_after_the_daemon_was_killed_and_started_again) {
  ASSERT_TRUE(daemon_.start());
  Model model = daemon_.open("multi", GetParam());
  ASSERT_EQ(call_multi(model), Status());
  for (int repeat = 0; repeat < 3; ++repeat) {
    daemon_.kill();
    ASSERT_TRUE(daemon_.start());
    Status status = call_multi(model);
    // At most the call that meets the dead connection may say so.
    if (!status.ok()) {
      EXPECT_THAT(status.code(), AnyOf(StatusCode::kAborted, StatusCode::kUnavailable))
          << status.to_string();
      status = call_multi(model);
    }
    EXPECT_EQ(status, Status());
  }
  daemon_.expect_clean_stop();
}

TEST_P(StartOrder, what_was_in_flight_when_the_daemon_died_fails_within_two_seconds) {
  ASSERT_TRUE(daemon_.start());
  Model model = daemon_.open("slow", GetParam());
  const Tensor many = tensor<std::int64_t>({1}, {10'000'000});
  std::vector<Future> futures;
  for (int i = 0; i < 2; ++i) {
    Result<Future> future = submit(model, std::span(&many, 1));
    ASSERT_TRUE(future) << future.error().to_string();
    futures.push_back(std::move(*future));
  }
  daemon_.kill();
  const auto killed = std::chrono::steady_clock::now();
  for (Future& future : futures) {
    const Result<Reply> reply = future.wait(patience());
    ASSERT_FALSE(reply) << "answered by nobody";
    EXPECT_THAT(reply.error().code(), AnyOf(StatusCode::kAborted, StatusCode::kUnavailable))
        << reply.error().to_string();
  }
  // Nobody is left to wake the client: it looks for itself once a second.
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(2));
}

TEST_P(StartOrder, a_client_process_survives_restarts_in_the_middle_of_its_calls) {
  ASSERT_TRUE(daemon_.start());
  ChildProcess client = start_client("0", "client");
  const auto answered = [&] {
    Client pace = daemon_.connect();
    return eventually([&] {
      const Result<DaemonStatus> status = pace.status();
      return status && status->workers.at(0).completed >= 20;
    });
  };
  for (int repeat = 0; repeat < 3; ++repeat) {
    ASSERT_TRUE(answered()) << read_text(daemon_.directory() / "client");
    daemon_.kill();
    ASSERT_TRUE(daemon_.start());
  }
  ASSERT_TRUE(answered()) << read_text(daemon_.directory() / "client");
  EXPECT_FALSE(client.wait(SteadyTime::min())) << read_text(daemon_.directory() / "client");
}

INSTANTIATE_TEST_SUITE_P(Transports, StartOrder,
                         ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace
}  // namespace bucketd::test
