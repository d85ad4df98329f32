// The supervisor as a process, with fake workers that die, hang and lie; and the models' life.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "common/wire/model_wire.h"
#include "daemon/supervisor/testing/test_supervisor.h"

namespace bucketd::testing {
namespace {

using flatbuffers::FlatBufferBuilder;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// What a request does; see fake_worker.cc.
constexpr std::uint8_t kEcho = 0;
constexpr std::uint8_t kCrash = 1;
constexpr std::uint8_t kHang = 2;
constexpr std::uint8_t kExit = 3;
constexpr std::uint8_t kGarbage = 4;
constexpr std::uint8_t kViolate = 5;

const auto kGetStatus = [](FlatBufferBuilder& builder) { return wire::CreateGetStatus(builder); };

auto load_model(const std::string& path, const std::string& name, std::uint32_t wait_ms = 20000) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateLoadModel(builder, builder.CreateString(path), builder.CreateString(name),
                                 wait_ms);
  };
}

auto unload_model(const std::string& name) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateUnloadModel(builder, builder.CreateString(name));
  };
}

class SupervisorCrashTest : public ::testing::Test {
 protected:
  void serve_echo(const std::string& more = "") {
    daemon_.write_artifact("echo.pt", "name: echo");
    daemon_.start("models: [{path: echo.pt, name: echo, execution_limit_ms: 300}]\n" + more);
    daemon_.wait_ready();
  }
  TestSupervisor daemon_;
};

struct Worker {
  pid_t pid = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t restarts = 0;
  std::string last_death;
};

Worker worker_of(ControlClient& client, std::uint32_t worker = 0) {
  const Received answer = client.ask(kGetStatus);
  const wire::WorkerReport& report =
      *answer.message().body_as_StatusReport()->workers()->Get(worker);
  return {report.pid(), report.incarnation(), report.restarts(), report.last_death()->str()};
}

TEST_F(SupervisorCrashTest, a_dead_worker_wakes_its_clients_within_a_second_and_comes_back) {
  serve_echo();
  ControlClient client = daemon_.connect();
  ControlClient bystander = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  TestLane other(bystander.ask(open_lane_request("echo")));
  lane.submit(kEcho, 1);
  ASSERT_TRUE(lane.completion());
  lane.submit(kCrash, 2);
  lane.submit(kEcho, 3);
  EXPECT_LT(lane.wait_closed(), std::chrono::seconds(1));
  EXPECT_LT(other.wait_closed(), std::chrono::seconds(1));

  const Received event = client.event();
  const wire::ChannelClosed* closed = event.message().body_as_ChannelClosed();
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(closed->channel_id(), lane.channel_id());
  ASSERT_EQ(closed->executing()->size(), 1u);
  EXPECT_EQ(closed->executing()->Get(0)->user_data(), 2u);
  EXPECT_EQ(closed->executing()->Get(0)->lane_id(), lane.lane_id());
  const Status reason = wire::from_wire(closed->status());
  EXPECT_EQ(reason.code(), StatusCode::kUnavailable);
  EXPECT_THAT(reason.message(), HasSubstr("SIGSEGV while executing model 'echo'"));

  const Received other_event = bystander.event();
  EXPECT_EQ(other_event.message().body_as_ChannelClosed()->executing()->size(), 0u);

  TestLane again(client.ask(open_lane_request("echo")));
  EXPECT_TRUE(again.opened().new_channel());
  EXPECT_GT(again.opened().worker_incarnation(), lane.opened().worker_incarnation());
  again.submit(kEcho, 4, 9);
  EXPECT_TRUE(again.completion());
  EXPECT_EQ(worker_of(client).restarts, 1u);
}

TEST_F(SupervisorCrashTest, clients_of_other_workers_see_nothing) {
  daemon_.write_artifact("a.pt", "name: a");
  daemon_.write_artifact("b.pt", "name: b");
  daemon_.start(
      "workers: [{first_core: 0, cores: 1}, {first_core: 1, cores: 1}]\n"
      "models: [{path: a.pt, name: a, worker: 0}, {path: b.pt, name: b, worker: 1}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  TestLane a(client.ask(open_lane_request("a")));
  TestLane b(client.ask(open_lane_request("b")));
  const Worker before = worker_of(client, 1);
  a.submit(kCrash, 1);
  a.wait_closed();
  EXPECT_EQ(client.event().message().body_as_ChannelClosed()->channel_id(), a.channel_id());
  b.submit(kEcho, 2);
  EXPECT_TRUE(b.completion());
  EXPECT_EQ(worker_of(client, 1).pid, before.pid);
}

TEST_F(SupervisorCrashTest, a_hang_is_killed_at_its_limit_and_the_reason_is_told) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  lane.submit(kHang, 5);
  const std::chrono::milliseconds took = lane.wait_closed();
  EXPECT_GE(took, std::chrono::milliseconds(250));
  EXPECT_LT(took, std::chrono::milliseconds(1300));
  const Received event = client.event();
  const wire::ChannelClosed* closed = event.message().body_as_ChannelClosed();
  ASSERT_EQ(closed->executing()->size(), 1u);
  EXPECT_THAT(closed->status()->message()->str(),
              HasSubstr("model 'echo' exceeded its execution limit of 300 ms"));
}

TEST_F(SupervisorCrashTest, requests_shorter_than_the_limit_are_never_killed) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  const pid_t pid = worker_of(client).pid;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(900);
  for (std::uint64_t i = 1; std::chrono::steady_clock::now() < end; ++i) {
    lane.submit(kEcho, i);
    ASSERT_TRUE(lane.completion());
  }
  EXPECT_EQ(worker_of(client).pid, pid);
}

TEST_F(SupervisorCrashTest, a_client_that_keeps_killing_a_model_is_refused_on_it) {
  serve_echo("crash: {deaths_per_client: 2, restart_delay_ms: 1}\n");
  daemon_.write_artifact("other.pt", "name: other");
  for (int death = 0; death < 2; ++death) {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("echo")));
    lane.submit(kExit, 1);
    EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  }
  ControlClient client = daemon_.connect();
  const Status refused = client.ask(open_lane_request("echo")).status();
  EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refused.message(), HasSubstr("model 'echo'"));
  EXPECT_THAT(refused.message(), HasSubstr("2 times"));
  // An administrator who loads it again forgives.
  EXPECT_EQ(client.ask(load_model("echo.pt", "echo")).type(), wire::Body::Ok);
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorCrashTest, a_client_that_left_before_its_request_crashed_is_charged_too) {
  serve_echo("crash: {deaths_per_client: 1, restart_delay_ms: 1}\n");
  ControlClient watcher = daemon_.connect();
  {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("echo")));
    lane.submit(kHang, 1);
    lane.wait_taken();
  }
  ASSERT_TRUE(eventually([&] { return worker_of(watcher).restarts != 0; }));
  EXPECT_EQ(watcher.ask(open_lane_request("echo")).status().code(), StatusCode::kPermissionDenied);
}

TEST_F(SupervisorCrashTest, deaths_by_somebody_else_are_nobodys) {
  serve_echo("crash: {deaths_per_client: 1, restart_delay_ms: 1}\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  lane.submit(kEcho, 1);
  ASSERT_TRUE(lane.completion());
  ::kill(worker_of(client).pid, SIGKILL);
  EXPECT_EQ(client.event().message().body_as_ChannelClosed()->executing()->size(), 0u);
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
  EXPECT_THAT(worker_of(client).last_death, HasSubstr("SIGKILL"));
}

TEST_F(SupervisorCrashTest, a_worker_that_sends_garbage_is_replaced) {
  serve_echo("crash: {restart_delay_ms: 1}\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  lane.submit(kGarbage, 1);
  lane.wait_closed();
  EXPECT_THAT(client.event().message().body_as_ChannelClosed()->status()->message()->str(),
              HasSubstr("broke the protocol"));
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorCrashTest, a_violation_ends_the_connection_of_that_client_alone) {
  serve_echo();
  ControlClient rogue = daemon_.connect();
  ControlClient other = daemon_.connect();
  TestLane rogue_lane(rogue.ask(open_lane_request("echo")));
  TestLane other_lane(other.ask(open_lane_request("echo")));
  rogue_lane.submit(kViolate, 1);
  EXPECT_TRUE(rogue.wait_closed());
  other_lane.submit(kEcho, 2);
  EXPECT_TRUE(other_lane.completion());
  other.ask(kGetStatus);  // what the daemon had to do before this, it has done
  EXPECT_THAT(daemon_.log(), HasSubstr("tail too far"));
}

TEST_F(SupervisorCrashTest, restarts_wait_longer_each_time_and_never_overlap) {
  serve_echo("crash: {deaths_per_client: 100, restart_delay_ms: 20, restart_delay_max_ms: 80}\n");
  ControlClient client = daemon_.connect();
  std::uint64_t incarnation = 0;
  for (int death = 0; death < 5; ++death) {
    TestLane lane(client.ask(open_lane_request("echo")));
    EXPECT_GT(lane.opened().worker_incarnation(), incarnation);
    incarnation = lane.opened().worker_incarnation();
    const pid_t pid = worker_of(client).pid;
    lane.submit(kCrash, 1);
    lane.wait_closed();
    // The signal comes after the reaping: the process does not exist any more.
    EXPECT_NE(::kill(pid, 0), 0);
    EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  }
  EXPECT_THAT(daemon_.log(), HasSubstr("starts again in 20 ms"));
  EXPECT_THAT(daemon_.log(), HasSubstr("starts again in 40 ms"));
  EXPECT_THAT(daemon_.log(), HasSubstr("starts again in 80 ms"));
  EXPECT_THAT(daemon_.log(), Not(HasSubstr("starts again in 160 ms")));
}

TEST_F(SupervisorCrashTest, a_model_that_kills_its_probe_is_quarantined_and_no_worker_sees_it) {
  daemon_.write_artifact("good.pt", "name: good");
  daemon_.write_artifact("bad.pt", "name: bad\nload: die");
  daemon_.start("models: [{path: bad.pt, name: bad}, {path: good.pt}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_THAT(client.state_of("bad"), StartsWith("quarantined: "));
  EXPECT_THAT(client.state_of("bad"), HasSubstr("SIGSEGV"));
  EXPECT_EQ(client.state_of("good"), "ready");
  EXPECT_EQ(worker_of(client).restarts, 0u);
  const Status status = client.ask(open_lane_request("bad")).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("quarantined"));
}

TEST_F(SupervisorCrashTest, an_artifact_that_kills_a_used_probe_is_tried_again_in_a_fresh_one) {
  serve_echo();
  daemon_.write_artifact("bad.pt", "name: bad\nload: die");
  ControlClient client = daemon_.connect();
  const Status status = client.ask(load_model("bad.pt", "bad")).status();
  EXPECT_THAT(status.message(), HasSubstr("SIGSEGV"));
  EXPECT_THAT(client.state_of("bad"), StartsWith("quarantined"));
  EXPECT_THAT(daemon_.log(), HasSubstr("it gets a fresh one"));
  // The next is not made to pay for it.
  daemon_.write_artifact("good.pt", "name: good");
  EXPECT_EQ(client.ask(load_model("good.pt", "good")).type(), wire::Body::Ok);
}

TEST_F(SupervisorCrashTest, a_probe_that_takes_too_long_is_killed) {
  daemon_.write_artifact("bad.pt", "name: bad\nload: hang");
  daemon_.start("models: [{path: bad.pt, name: bad}]\nlimits: {probe_timeout_ms: 200}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_THAT(client.state_of("bad"), HasSubstr("limits.probe_timeout_ms"));
  EXPECT_THAT(client.state_of("bad"), StartsWith("quarantined"));
}

TEST_F(SupervisorCrashTest, a_probe_that_sends_garbage_quarantines) {
  daemon_.write_artifact("bad.pt", "name: bad\nload: garbage");
  daemon_.start("models: [{path: bad.pt, name: bad}]");
  daemon_.wait_ready();
  EXPECT_THAT(daemon_.connect().state_of("bad"), StartsWith("quarantined"));
}

TEST_F(SupervisorCrashTest, a_model_that_kills_the_worker_while_loading_is_quarantined) {
  daemon_.write_artifact("good.pt", "name: good");
  daemon_.write_artifact("bad.pt", "name: bad\nload: die_in_worker");
  daemon_.start(
      "models: [{path: good.pt}, {path: bad.pt, name: bad}]\n"
      "crash: {restart_delay_ms: 1}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.ask(open_lane_request("good")).type(), wire::Body::LaneOpened);
  EXPECT_THAT(client.state_of("bad"), StartsWith("quarantined"));
  EXPECT_THAT(client.state_of("bad"), HasSubstr("while it was being loaded, worker 0"));
  EXPECT_EQ(worker_of(client).restarts, 1u);
}

TEST_F(SupervisorCrashTest, a_model_that_was_next_when_the_worker_was_killed_is_innocent) {
  const std::string marker = (daemon_.folder() / "died").string();
  // Whichever is loaded first (they are tried out side by side) dies when the other one's turn
  // comes.
  daemon_.write_artifact("first.pt", "name: first\ndie_after_load: " + marker);
  daemon_.write_artifact("second.pt", "name: second\ndie_after_load: " + marker);
  daemon_.start(
      "models: [{path: first.pt, name: first}, {path: second.pt, name: second}]\n"
      "crash: {restart_delay_ms: 1}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_TRUE(std::filesystem::exists(marker));
  EXPECT_EQ(client.state_of("first"), "ready");
  EXPECT_EQ(client.state_of("second"), "ready");
  EXPECT_EQ(worker_of(client).restarts, 1u);
}

TEST_F(SupervisorCrashTest, a_worker_that_leaves_a_question_unanswered_is_killed) {
  daemon_.write_artifact("deaf.pt", "name: deaf\nlanes: ignore");
  daemon_.start(
      "models: [{path: deaf.pt, name: deaf}]\nlimits: {probe_timeout_ms: 200}\n"
      "crash: {restart_delay_ms: 1, deaths_per_client: 1}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  const std::uint64_t waiting = client.send(open_lane_request("deaf", 1000));
  ASSERT_TRUE(eventually([&] { return worker_of(client).restarts != 0; }));
  EXPECT_THAT(worker_of(client).last_death, HasSubstr("left a question unanswered for 400 ms"));
  // Nobody is charged: it is no PERMISSION_DENIED.
  EXPECT_EQ(client.answer(waiting).status().code(), StatusCode::kUnavailable);
}

TEST_F(SupervisorCrashTest, a_worker_that_hangs_while_loading_is_killed_and_the_model_quarantined) {
  daemon_.write_artifact("bad.pt", "name: bad\nload: hang_in_worker");
  daemon_.start(
      "models: [{path: bad.pt, name: bad}]\nlimits: {probe_timeout_ms: 300}\n"
      "crash: {restart_delay_ms: 1}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_THAT(client.state_of("bad"), StartsWith("quarantined"));
}

TEST_F(SupervisorCrashTest, loading_again_lifts_the_quarantine_once_the_artifact_is_good) {
  daemon_.write_artifact("m.pt", "name: m\nload: die");
  daemon_.start("models: [{path: m.pt, name: m}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  const Status again = client.ask(load_model("m.pt", "m")).status();
  EXPECT_EQ(again.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(again.message(), HasSubstr("SIGSEGV"));
  daemon_.write_artifact("m.pt", "name: m");
  EXPECT_EQ(client.ask(load_model("m.pt", "m")).type(), wire::Body::Ok);
  EXPECT_EQ(client.state_of("m"), "ready");
}

TEST_F(SupervisorCrashTest, a_reload_swaps_and_the_old_lanes_are_closed) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane old_lane(client.ask(open_lane_request("echo")));
  daemon_.write_artifact("echo.pt", "name: echo\nlength: 32");
  EXPECT_EQ(client.ask(load_model("echo.pt", "echo")).type(), wire::Body::Ok);
  const Received event = client.event();
  const wire::LaneClosed* closed = event.message().body_as_LaneClosed();
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(closed->channel_id(), old_lane.channel_id());
  EXPECT_EQ(closed->lane_id(), old_lane.lane_id());
  EXPECT_THAT(closed->status()->message()->str(), HasSubstr("'echo' was unloaded or replaced"));
  TestLane lane(client.ask(open_lane_request("echo")), &old_lane);
  EXPECT_FALSE(lane.opened().new_channel());
  EXPECT_EQ(lane.opened().model()->accepted()->Get(0)->dims()->Get(1)->max(), 32);
  lane.submit(kEcho, 1);
  EXPECT_TRUE(lane.completion());
}

TEST_F(SupervisorCrashTest, a_failed_reload_keeps_the_old_model_serving) {
  serve_echo();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  for (const char* how : {"fail", "die", "garbage"}) {
    daemon_.write_artifact("echo.pt", std::string("name: echo\nload: ") + how);
    EXPECT_FALSE(client.ask(load_model("echo.pt", "echo")).status().ok()) << how;
    lane.submit(kEcho, 1);
    EXPECT_TRUE(lane.completion()) << how;
    EXPECT_THAT(client.state_of("echo"), StartsWith("ready: the last reload failed")) << how;
  }
}

TEST_F(SupervisorCrashTest, a_reload_that_kills_the_worker_brings_the_old_model_back) {
  serve_echo("crash: {restart_delay_ms: 1}\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  daemon_.write_artifact("echo.pt", "name: echo\nload: die_in_worker");
  EXPECT_FALSE(client.ask(load_model("echo.pt", "echo")).status().ok());
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  TestLane again(client.ask(open_lane_request("echo")));
  again.submit(kEcho, 1);
  EXPECT_TRUE(again.completion());
}

TEST_F(SupervisorCrashTest, an_unloaded_model_is_gone_and_its_lanes_are_told) {
  serve_echo();
  ControlClient client = daemon_.connect();
  const TestLane lane(client.ask(open_lane_request("echo")));
  EXPECT_EQ(client.ask(unload_model("echo")).type(), wire::Body::Ok);
  EXPECT_EQ(client.event().type(), wire::Body::LaneClosed);
  EXPECT_EQ(client.state_of("echo"), "absent");
  EXPECT_EQ(client.ask(open_lane_request("echo")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(client.ask(unload_model("echo")).status().code(), StatusCode::kNotFound);
  const Received status = client.ask(kGetStatus);
  EXPECT_EQ(status.message().body_as_StatusReport()->lanes(), 0u);
  EXPECT_EQ(client.ask(load_model("echo.pt", "")).type(), wire::Body::Ok);
  EXPECT_EQ(client.state_of("echo"), "ready");
}

TEST_F(SupervisorCrashTest, models_come_back_from_the_file_that_was_proven) {
  serve_echo("crash: {restart_delay_ms: 1}\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  // Replaced by rename; nobody asked for a reload.
  daemon_.write_artifact("echo.pt", "name: echo\nload: die");
  lane.submit(kCrash, 1);
  lane.wait_closed();
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorCrashTest, a_file_changed_in_place_is_probed_again) {
  serve_echo("crash: {restart_delay_ms: 1}\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("echo")));
  std::ofstream(daemon_.folder() / "models/echo.pt") << "name: echo\nload: die\n";
  lane.submit(kCrash, 1);
  lane.wait_closed();
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  const Status status = client.ask(open_lane_request("echo")).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(worker_of(client).restarts, 1u);
}

TEST_F(SupervisorCrashTest, why_a_worker_cannot_be_executed_is_for_the_log_alone) {
  const std::filesystem::path worker = daemon_.folder() / "worker";
  std::ofstream(worker) << "#!/nowhere/interpreter\n";
  std::filesystem::permissions(worker, std::filesystem::perms::owner_all);
  daemon_.start("crash: {restart_delay_ms: 1}", worker);
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  ASSERT_TRUE(eventually([&] { return worker_of(client).restarts != 0; }));
  EXPECT_THAT(worker_of(client).last_death, HasSubstr("the daemon's log says why"));
  EXPECT_THAT(worker_of(client).last_death, Not(HasSubstr("/")));
  EXPECT_THAT(daemon_.log(), HasSubstr(worker.string()));
}

TEST_F(SupervisorCrashTest, a_worker_that_cannot_start_is_reported_and_does_not_block_the_start) {
  daemon_.write_artifact("echo.pt", "name: echo");
  const std::filesystem::path worker = daemon_.folder() / "worker";
  std::filesystem::copy_file("/bin/false", worker);
  daemon_.start("models: [{path: echo.pt, name: echo}]\ncrash: {restart_delay_ms: 1}", worker);
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_THAT(worker_of(client).last_death, HasSubstr("exited with status 1"));
  EXPECT_FALSE(client.ask(open_lane_request("echo", 0)).status().ok());
}

}  // namespace
}  // namespace bucketd::testing
