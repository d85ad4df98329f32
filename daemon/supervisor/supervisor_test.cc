// The supervisor as a process, with fake workers and raw clients: the main path.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <sstream>

#include "daemon/supervisor/testing/test_supervisor.h"

namespace bucketd::testing {
namespace {

using flatbuffers::FlatBufferBuilder;
using ::testing::HasSubstr;
using ::testing::Not;

auto hello(std::uint16_t major) {
  return [major](FlatBufferBuilder& builder) { return wire::CreateHello(builder, major, 0, 3); };
}
const auto kGetStatus = [](FlatBufferBuilder& builder) { return wire::CreateGetStatus(builder); };
const auto kListModels = [](FlatBufferBuilder& builder) { return wire::CreateListModels(builder); };

// Whether the daemon holds nothing for anybody but `watcher`.
bool is_alone(ControlClient& watcher) {
  const Received status = watcher.ask(kGetStatus);
  const wire::StatusReport& report = *status.message().body_as_StatusReport();
  return report.connections() == 1 && report.channels() == 0 && report.lanes() == 0;
}

class SupervisorTest : public ::testing::Test {
 protected:
  void serve_echo(const std::string& more = "") {
    daemon_.write_artifact("echo.pt", "name: echo");
    daemon_.start("models: [{path: echo.pt}]\n" + more);
    daemon_.wait_ready();
  }
  TestSupervisor daemon_;
};

TEST_F(SupervisorTest, welcomes_a_client_and_tells_version_and_rights) {
  serve_echo();
  ControlClient client(daemon_.socket_path());
  const Received answer = client.ask(hello(kProtocolMajor));
  const wire::Welcome* welcome = answer.message().body_as_Welcome();
  ASSERT_NE(welcome, nullptr);
  EXPECT_EQ(welcome->major(), kProtocolMajor);
  EXPECT_EQ(welcome->features(), kFeatureRing | kFeatureStream);
  EXPECT_NE(welcome->daemon_incarnation(), 0u);
  EXPECT_TRUE(welcome->is_admin());
}

TEST_F(SupervisorTest, refuses_another_major_version_with_both_versions_in_the_text) {
  serve_echo();
  ControlClient client(daemon_.socket_path());
  const Received answer = client.ask(hello(99));
  EXPECT_EQ(answer.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(answer.status().message(), HasSubstr("protocol version 1"));
  EXPECT_THAT(answer.status().message(), HasSubstr("version 99"));
  EXPECT_TRUE(client.wait_closed());
}

TEST_F(SupervisorTest, ends_a_connection_that_asks_before_hello) {
  serve_echo();
  ControlClient client(daemon_.socket_path());
  client.send(kListModels);
  EXPECT_TRUE(client.wait_closed());
}

TEST_F(SupervisorTest, ends_a_connection_that_says_hello_twice) {
  serve_echo();
  ControlClient client = daemon_.connect();
  client.send(hello(kProtocolMajor));
  EXPECT_TRUE(client.wait_closed());
}

TEST_F(SupervisorTest, ends_a_connection_whose_message_does_not_verify) {
  serve_echo();
  ControlClient client = daemon_.connect();
  client.send_bytes(std::vector<std::byte>(300, std::byte{0xFF}));
  EXPECT_TRUE(client.wait_closed());
  daemon_.connect();  // others are served
}

TEST_F(SupervisorTest, ends_a_connection_that_passes_a_descriptor) {
  serve_echo();
  ControlClient client = daemon_.connect();
  client.send_bytes(supervisor::control_message(7, kListModels), {0});
  EXPECT_TRUE(client.wait_closed());
}

TEST_F(SupervisorTest, ends_a_connection_that_never_reads_its_answers) {
  serve_echo();
  ControlClient client = daemon_.connect();
  const std::vector<std::byte> request = supervisor::control_message(1, kGetStatus);
  // More answers than the queue and the socket together can hold.
  while (true) {
    const Status status = send_message(client.fd(), request);
    if (status.code() == StatusCode::kUnavailable) break;
    ASSERT_TRUE(status.ok() || status.code() == StatusCode::kWouldBlock) << status.to_string();
  }
  EXPECT_EQ(daemon_.connect().state_of("echo"), "ready");
}

TEST_F(SupervisorTest, lists_and_describes_a_model_under_the_artifacts_own_name) {
  daemon_.write_artifact("some file.pt", "name: own-name");
  daemon_.start("models: [{path: some file.pt}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.state_of("own-name"), "ready");
  const Received answer = client.ask([](FlatBufferBuilder& builder) {
    return wire::CreateDescribeModel(builder, builder.CreateString("own-name"));
  });
  ASSERT_EQ(answer.type(), wire::Body::Described);
  EXPECT_EQ(answer.message().body_as_Described()->model()->name()->str(), "own-name");
}

TEST_F(SupervisorTest, a_request_goes_to_the_worker_and_back_through_shared_memory) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  EXPECT_TRUE(lane.opened().new_channel());
  lane.submit(0, 4711, 2.5F);
  const std::optional<CompletionEntry> completion = lane.completion();
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->user_data, 4711u);
  EXPECT_EQ(lane.output(*completion), 2.5F);
}

TEST_F(SupervisorTest, a_client_cannot_map_region_b_writable) {
  serve_echo();
  ControlClient client = daemon_.connect();
  const TestLane lane(client.ask(open_lane_request("echo")));
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, lane.region_b(), 0),
            MAP_FAILED);
  EXPECT_NE(::fcntl(lane.region_b(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_NE(::ftruncate(lane.region_b(), 0), 0);
}

TEST_F(SupervisorTest, a_second_lane_of_a_worker_shares_the_channel) {
  daemon_.write_artifact("a.pt", "name: a");
  daemon_.write_artifact("b.pt", "name: b");
  daemon_.start("models: [{path: a.pt}, {path: b.pt}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  // Asked for at once: the second waits for the channel that the first makes.
  const std::uint64_t first = client.send(open_lane_request("a"));
  const std::uint64_t second = client.send(open_lane_request("b"));
  TestLane a(client.answer(first));
  TestLane b(client.answer(second), &a);
  EXPECT_TRUE(a.opened().new_channel());
  EXPECT_FALSE(b.opened().new_channel());
  EXPECT_EQ(a.channel_id(), b.channel_id());
  b.submit(0, 1, 7);
  EXPECT_TRUE(b.completion());
}

TEST_F(SupervisorTest, a_missing_model_is_not_found_and_the_others_are_named) {
  serve_echo();
  ControlClient client = daemon_.connect();
  const Status status = client.ask(open_lane_request("brt")).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "no model named 'brt'; there are: echo");
}

TEST_F(SupervisorTest, open_lane_waits_for_a_model_that_is_loading) {
  const std::string gate = daemon_.folder() / "gate";
  daemon_.write_artifact("slow.pt", "name: slow\nhold: " + gate);
  daemon_.start("models: [{path: slow.pt, name: slow}]");
  // It accepts connections before any model is ready.
  std::optional<ControlClient> client;
  ASSERT_TRUE(eventually([&] {
    try {
      client.emplace(daemon_.connect());
      return true;
    } catch (const std::runtime_error&) {
      return false;  // it does not listen yet
    }
  }));
  const Status early = client->ask(open_lane_request("slow", 0)).status();
  EXPECT_EQ(early.code(), StatusCode::kUnavailable);
  EXPECT_THAT(early.message(), HasSubstr("'slow' is still being loaded"));
  const std::uint64_t waiting = client->send(open_lane_request("slow", 20000));
  client->ask(kGetStatus);  // it has been taken
  ASSERT_GE(::open(gate.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600), 0);
  EXPECT_EQ(client->answer(waiting).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorTest, a_model_that_fails_to_load_is_reported_and_the_others_serve) {
  daemon_.write_artifact("good.pt", "name: good");
  daemon_.write_artifact("bad.pt", "name: bad\nload: fail");
  daemon_.start(
      "models: [{path: bad.pt, name: bad}, {path: missing.pt, name: missing}, "
      "{path: good.pt}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.state_of("good"), "ready");
  EXPECT_THAT(client.state_of("bad"), HasSubstr("failed: its seal is broken"));
  EXPECT_THAT(client.state_of("missing"), HasSubstr("failed: NOT_FOUND"));
  const Status status = client.ask(open_lane_request("bad")).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("'bad'"));
  EXPECT_THAT(status.message(), HasSubstr("its seal is broken"));
}

TEST_F(SupervisorTest, all_that_a_connection_held_is_gone_with_it) {
  serve_echo();
  ControlClient watcher = daemon_.connect();
  {
    ControlClient client = daemon_.connect();
    const TestLane first(client.ask(open_lane_request("echo")));
    const TestLane second(client.ask(open_lane_request("echo")), &first);
    const Received stream = client.ask(open_lane_request("echo", 0, wire::Transport::kStream));
    ASSERT_EQ(stream.type(), wire::Body::LaneOpened);
    EXPECT_EQ(stream.fds.size(), 1u);
    const Received status = watcher.ask(kGetStatus);
    const wire::StatusReport& report = *status.message().body_as_StatusReport();
    EXPECT_EQ(report.connections(), 2u);
    EXPECT_EQ(report.channels(), 2u);
    EXPECT_EQ(report.lanes(), 3u);
  }
  EXPECT_TRUE(eventually([&] { return is_alone(watcher); }));
}

TEST_F(SupervisorTest, limits_on_lanes_connections_and_memory_name_themselves) {
  serve_echo(
      "limits: {max_lanes_per_connection: 2, max_connections_per_user: 3,"
      " lane_bytes: 65536, max_shared_bytes_per_user: 1048576}\n");
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
  const Status lanes = client.ask(open_lane_request("echo")).status();
  EXPECT_EQ(lanes.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(lanes.message(), HasSubstr("limits.max_lanes_per_connection"));
  ControlClient second = daemon_.connect();
  ControlClient third = daemon_.connect();
  ControlClient fourth(daemon_.socket_path());
  EXPECT_THAT(fourth.event().status().message(), HasSubstr("limits.max_connections_per_user"));
  EXPECT_TRUE(fourth.wait_closed());
}

TEST_F(SupervisorTest, serves_many_connections_that_come_and_go) {
  serve_echo();
  ControlClient watcher = daemon_.connect();
  for (int round = 0; round < 20; ++round) {
    std::vector<ControlClient> clients;
    std::vector<TestLane> lanes;
    for (int i = 0; i < 20; ++i) clients.push_back(daemon_.connect());
    for (ControlClient& client : clients) {
      lanes.emplace_back(client.ask(open_lane_request("echo")));
    }
    for (TestLane& lane : lanes) lane.submit(0, 1, 1);
    for (TestLane& lane : lanes) ASSERT_TRUE(lane.completion());
  }
  EXPECT_TRUE(eventually([&] { return is_alone(watcher); }));
}

TEST_F(SupervisorTest, a_user_who_opens_more_lanes_at_once_than_fit_waits_and_gets_them_all) {
  serve_echo("limits: {max_lanes_per_connection: 1000, lane_bytes: 8192}\n");
  ControlClient client = daemon_.connect();
  std::vector<std::uint64_t> requests;
  for (int i = 0; i < 120; ++i) requests.push_back(client.send(open_lane_request("echo", 0)));
  for (const std::uint64_t request : requests) {
    EXPECT_EQ(client.answer(request).type(), wire::Body::LaneOpened);
  }
}

TEST_F(SupervisorTest, keeps_no_descriptor_of_clients_that_are_gone) {
  serve_echo();
  ControlClient watcher = daemon_.connect();
  const auto open_descriptors = [&] {
    const std::filesystem::directory_iterator entries("/proc/" + std::to_string(daemon_.pid()) +
                                                      "/fd");
    return std::distance(begin(entries), end(entries));
  };
  const auto serve_one = [&] {
    {
      ControlClient client = daemon_.connect();
      const TestLane ring(client.ask(open_lane_request("echo")));
      client.ask(open_lane_request("echo", 0, wire::Transport::kStream));
      client.send(open_lane_request("echo"));  // and leaves before the answer
    }
    ASSERT_TRUE(eventually([&] { return is_alone(watcher); }));
  };
  serve_one();
  const auto before = open_descriptors();
  for (int i = 0; i < 50; ++i) serve_one();
  EXPECT_LE(open_descriptors(), before);
}

TEST_F(SupervisorTest, takes_the_socket_of_socket_activation_and_leaves_it) {
  daemon_.write_artifact("echo.pt", "name: echo");
  daemon_.start_activated("models: [{path: echo.pt}]");
  daemon_.wait_ready();
  EXPECT_EQ(daemon_.connect().state_of("echo"), "ready");
  daemon_.signal(SIGTERM);
  EXPECT_EQ(daemon_.wait_end(), 0);
  EXPECT_TRUE(std::filesystem::exists(daemon_.socket_path()));
}

TEST_F(SupervisorTest, check_config_tells_position_and_exit_code) {
  const std::filesystem::path config = daemon_.folder() / "bad.yaml";
  std::ofstream(config) << "socket:\n  pth: /x\n";
  const std::string out = daemon_.folder() / "out";
  const std::string command =
      std::string(BUCKETD_EXECUTABLE) + " --check-config " + config.string() + " >" + out + " 2>&1";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 2);
  std::ostringstream text;
  text << std::ifstream(out).rdbuf();
  EXPECT_THAT(text.str(), HasSubstr(config.string() + ":2:3: unknown key 'socket.pth'"));
}

TEST_F(SupervisorTest, sigterm_drains_and_ends_with_success_and_no_socket) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  daemon_.signal(SIGTERM);
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  EXPECT_FALSE(lane.completion());
  EXPECT_EQ(daemon_.wait_end(), 0);
  EXPECT_FALSE(std::filesystem::exists(daemon_.socket_path()));
}

TEST_F(SupervisorTest, signals_that_come_until_it_has_ended_leave_the_end_a_good_one) {
  serve_echo();
  while (!daemon_.has_ended()) daemon_.signal(SIGTERM);
  EXPECT_EQ(daemon_.wait_end(), 0);
}

TEST_F(SupervisorTest, a_draining_daemon_refuses_lanes_and_gives_up_after_its_time) {
  daemon_.write_artifact("stubborn.pt", "name: stubborn\ndrain: ignore");
  daemon_.start("models: [{path: stubborn.pt}]\nshutdown: {drain_timeout_ms: 1500}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  daemon_.signal(SIGTERM);
  Status status;
  EXPECT_TRUE(eventually([&] {
    status = client.ask(open_lane_request("stubborn", 0)).status();
    return !status.ok();
  }));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("draining"));
  EXPECT_EQ(daemon_.wait_end(), 0);
}

TEST_F(SupervisorTest, requests_that_did_not_end_in_time_are_named_when_the_daemon_ends) {
  for (const bool is_hurried : {false, true}) {
    daemon_.write_artifact("echo.pt", "name: echo");
    daemon_.start("models: [{path: echo.pt, name: echo}]\nshutdown: {drain_timeout_ms: " +
                  std::string(is_hurried ? "60000}" : "100}"));
    daemon_.wait_ready();
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("echo")));
    lane.submit(2, 77);  // never returns
    lane.wait_taken();
    daemon_.signal(SIGTERM);
    if (is_hurried) {
      EXPECT_TRUE(eventually([&] {
        return client.ask(open_lane_request("echo")).status().message().find("draining") !=
               std::string::npos;
      }));
      daemon_.signal(SIGTERM);
    }
    const Received event = client.event();
    const wire::ChannelClosed* closed = event.message().body_as_ChannelClosed();
    ASSERT_NE(closed, nullptr);
    ASSERT_EQ(closed->executing()->size(), 1u);
    EXPECT_EQ(closed->executing()->Get(0)->user_data(), 77u);
    EXPECT_THAT(closed->status()->message()->str(), HasSubstr("the daemon ends"));
    EXPECT_EQ(daemon_.wait_end(), 0);
  }
}

TEST_F(SupervisorTest, a_worker_that_exits_after_draining_does_not_cut_the_others_short) {
  const std::filesystem::path gate = daemon_.folder() / "gate";
  daemon_.write_artifact("slow.pt", "name: slow\ndrain_hold: " + gate.string());
  daemon_.write_artifact("quick.pt", "name: quick\ndrain: exit");
  daemon_.start(
      "workers: [{first_core: 0, cores: 1}, {first_core: 1, cores: 1}]\n"
      "models: [{path: slow.pt, name: slow, worker: 0}, {path: quick.pt, name: quick, worker: 1}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  const TestLane lane(client.ask(open_lane_request("slow")));
  const auto pid_of_quick = [&] {
    const Received status = client.ask(kGetStatus);
    return status.message().body_as_StatusReport()->workers()->Get(1)->pid();
  };
  daemon_.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return pid_of_quick() == 0; }));
  daemon_.connect();  // in another turn of the daemon: what follows from that has happened
  EXPECT_EQ(lane.page().closed.load(), 0u);
  std::ofstream(gate) << "open";
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  EXPECT_EQ(daemon_.wait_end(), 0);
}

TEST_F(SupervisorTest, a_name_that_no_model_can_have_is_refused_at_once) {
  // Any name might turn out to be this one's, so requests for others wait.
  const std::filesystem::path gate = daemon_.folder() / "gate";
  daemon_.write_artifact("m.pt", "name: m\nhold: " + gate.string());
  daemon_.start("models: [{path: m.pt}]");
  ASSERT_TRUE(eventually([&] { return std::filesystem::exists(gate.string() + ".reached"); }));
  ControlClient client = daemon_.connect();
  const std::uint64_t waiting = client.send(open_lane_request("m"));
  const Status status = client.ask(open_lane_request(std::string(100000, 'x'))).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_LT(status.message().size(), 300u);
  std::ofstream(gate) << "open";
  EXPECT_EQ(client.answer(waiting).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorTest, workers_die_with_a_supervisor_that_is_killed) {
  serve_echo();
  ControlClient client = daemon_.connect();
  const Received status = client.ask(kGetStatus);
  const pid_t worker = status.message().body_as_StatusReport()->workers()->Get(0)->pid();
  ASSERT_GT(worker, 0);
  daemon_.signal(SIGKILL);
  EXPECT_EQ(daemon_.wait_end(), 128 + SIGKILL);
  // It is ours now; this ends only when it does.
  EXPECT_EQ(::waitpid(worker, nullptr, 0), worker);
}

TEST_F(SupervisorTest, a_second_daemon_does_not_take_the_socket_and_a_stale_one_is_replaced) {
  serve_echo();
  {
    const std::string command = std::string(BUCKETD_EXECUTABLE) + " --config " +
                                (daemon_.folder() / "bucketd.yaml").string() + " 2>/dev/null";
    EXPECT_NE(std::system(command.c_str()), 0);
  }
  EXPECT_EQ(daemon_.connect().state_of("echo"), "ready");
  daemon_.signal(SIGKILL);
  daemon_.wait_end();
  ASSERT_TRUE(std::filesystem::exists(daemon_.socket_path()));
  serve_echo();
  EXPECT_EQ(daemon_.connect().state_of("echo"), "ready");
}

}  // namespace
}  // namespace bucketd::testing
