#include <gmock/gmock.h>

#include <filesystem>
#include <iterator>
#include <thread>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;

TEST(ClientTest, connects_and_lists_and_describes) {
  FakeDaemon daemon;
  daemon.add_model(echo_model("other"));
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  const std::vector<ModelSummary> models = get(client.models());
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].name, "echo");
  EXPECT_EQ(models[0].state, ModelState::kReady);
  EXPECT_EQ(models[0].bucket_count, 2u);
  EXPECT_EQ(models[1].name, "other");
  EXPECT_EQ(get(client.describe("echo")), echo_model());
  EXPECT_EQ(status_of(client.describe("ehco")).code(), StatusCode::kNotFound);
}

TEST(ClientTest, reports_the_daemons_status) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  const DaemonStatus status = get(client.status());
  EXPECT_EQ(status.version, "fake");
  EXPECT_EQ(status.pid, 99);
  EXPECT_EQ(status.uptime, std::chrono::milliseconds(4567));
  ASSERT_EQ(status.workers.size(), 1u);
  EXPECT_EQ(status.workers[0].pid, 1234);
  EXPECT_EQ(status.workers[0].state, WorkerState::kServing);
  EXPECT_EQ(status.workers[0].completed, 10u);
  EXPECT_EQ(status.workers[0].failed, 3u);
  EXPECT_EQ(status.workers[0].last_death, "killed by SIGSEGV");
  ASSERT_EQ(status.models.size(), 1u);
}

TEST(ClientTest, loads_and_unloads_models) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  EXPECT_EQ(client.load_model("fresh.pt", "fresh", patience()), Status());
  Model model = get(client.open("fresh"));
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_EQ(client.unload_model("fresh"), Status());
  EXPECT_EQ(client.unload_model("fresh").code(), StatusCode::kNotFound);
}

class LanesThatGoWrong : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, LanesThatGoWrong,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(LanesThatGoWrong, a_lane_that_cannot_be_used_is_given_back) {
  Client client = connect();
  daemon.spoil_lanes(LaneFault::kBadLayout);
  EXPECT_EQ(status_of(client.open("echo", patience())).code(), StatusCode::kInternal);
  daemon.wait_for_closed_lanes(1);
  daemon.spoil_lanes(LaneFault::kNone);
  Model model = get(client.open("echo", patience()));
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST_P(LanesThatGoWrong, a_lane_that_comes_too_late_is_given_back_with_its_descriptors) {
  const auto open_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  Client client = connect();
  Model first = get(client.open("echo", patience()));  // a ring's channel is kept
  daemon.add_model(echo_model("late"));
  daemon.spoil_lanes(LaneFault::kLate);
  EXPECT_EQ(status_of(client.open("late", already_over())).code(), StatusCode::kDeadlineExceeded);
  const auto before = open_descriptors();
  daemon.answer_late_lanes();
  get(client.models());  // takes in what came
  daemon.wait_for_closed_lanes(1);
  // The fake worker's own end of a stream.
  EXPECT_EQ(open_descriptors(), before + (GetParam() == Transport::kStream ? 1 : 0));
  EXPECT_TRUE(echoes(first, 1, 3));
}

TEST_P(LanesThatGoWrong, a_daemon_that_hangs_up_each_time_is_not_overrun) {
  Client client = connect();
  daemon.spoil_lanes(LaneFault::kHangUp);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  EXPECT_EQ(status_of(client.open("echo", deadline)).code(), StatusCode::kUnavailable);
  // 1, 2, 4, 8, 16, then 20 ms apart.
  EXPECT_LE(daemon.connection_count(), 22u);
  daemon.spoil_lanes(LaneFault::kNone);
  Model model = get(client.open("echo", patience()));
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST(ClientTest, model_that_does_not_exist_is_not_found) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  const Status status = status_of(client.open("ehco"));
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("'ehco'"));
}

TEST(ClientTest, model_describes_itself) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  EXPECT_EQ(get(client.open("echo")).description(), echo_model());
}

TEST(ClientTest, opening_twice_gives_handles_of_one_lane) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  Model first = get(client.open("echo"));
  Model second = get(client.open("echo"));
  const Request request = get(echo_request(first, 1, 3));
  EXPECT_EQ(second.free_slot_count(), 3u);
  EXPECT_EQ(daemon.opened_lanes(), 1u);
}

TEST(ClientTest, one_attempt_without_a_daemon_is_unavailable_and_names_the_socket) {
  FakeDaemon daemon;
  const Status status = status_of(Client::connect(options_for(daemon)));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "no daemon listens on " + daemon.socket_path());
}

TEST(ClientTest, waits_for_a_daemon_that_starts_later) {
  FakeDaemon daemon;
  ClientOptions options = options_for(daemon);
  options.connect_timeout = std::chrono::seconds(30);
  Result<Client> client = error(StatusCode::kUnknown, "not tried");
  std::thread connecting([&] { client = Client::connect(options); });
  daemon.start();
  connecting.join();
  Model model = get(get(std::move(client)).open("echo"));
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST(ClientTest, other_protocol_version_is_refused_with_both_versions) {
  FakeDaemonOptions options;
  options.protocol_major = 2;
  FakeDaemon daemon(options);
  daemon.start();
  const Status status = status_of(Client::connect(options_for(daemon)));
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "the daemon speaks protocol version 2, the client version 1");
}

TEST(ClientTest, transport_that_is_not_offered_is_named) {
  FakeDaemonOptions options;
  options.features = kFeatureRing;
  FakeDaemon daemon(options);
  daemon.start();
  const Status status =
      status_of(Client::connect(options_for(daemon, bucketd::Transport::kStream)));
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "the daemon does not offer the stream transport");
}

TEST(ClientTest, socket_path_that_no_socket_can_have_is_refused) {
  ClientOptions options;
  options.socket_path = std::string(200, 'x');
  EXPECT_EQ(status_of(Client::connect(options)).code(), StatusCode::kInvalidArgument);
}

TEST(ClientTest, daemon_that_does_not_greet_is_unavailable) {
  FakeDaemon daemon;
  daemon.start();
  daemon.stop_answering_control(/*hello_too=*/true);
  const Status status = status_of(Client::connect(options_for(daemon)));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "the daemon on " + daemon.socket_path() + " does not answer");
}

TEST(ClientTest, daemon_that_does_not_answer_ends_at_the_deadline) {
  FakeDaemon daemon;
  daemon.start();
  ClientOptions options = options_for(daemon);
  options.reconnect_timeout = std::chrono::milliseconds(50);
  Client client = get(Client::connect(options));
  daemon.stop_answering_control();
  EXPECT_EQ(status_of(client.models()).code(), StatusCode::kDeadlineExceeded);
}

TEST(ClientTest, threads_share_one_control_connection) {
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([client]() mutable {
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(get(client.models()).size(), 1u);
        EXPECT_EQ(get(client.describe("echo")).name, "echo");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(daemon.connection_count(), 1u);
}

TEST(ClientTest, states_have_names) {
  EXPECT_STREQ(model_state_name(ModelState::kQuarantined), "quarantined");
  EXPECT_STREQ(worker_state_name(WorkerState::kRestarting), "restarting");
}

}  // namespace
}  // namespace bucketd::testing
