// The supervisor as a process: sessions and their state.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/wire/model_wire.h"
#include "daemon/supervisor/testing/test_supervisor.h"

namespace bucketd::testing {
namespace {

using flatbuffers::FlatBufferBuilder;
using ::testing::HasSubstr;

constexpr std::uint8_t kEcho = 0;
constexpr std::uint8_t kCrash = 1;

const auto kGetStatus = [](FlatBufferBuilder& builder) { return wire::CreateGetStatus(builder); };

auto open_session(const std::string& model, const std::string& id = "") {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateOpenSession(builder, builder.CreateString(model), builder.CreateString(id));
  };
}

auto close_session(const std::string& id) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateCloseSession(builder, builder.CreateString(id));
  };
}

struct Session {
  std::string id;
  std::uint64_t handle = 0;
};

class SupervisorSessionTest : public ::testing::Test {
 protected:
  // The model's only state counts its requests, from 100 on.
  void serve_counter(const std::string& more = "") {
    daemon_.write_artifact("m.pt", "name: m\nstates: 1");
    daemon_.start("models: [{path: m.pt, name: m}]\ncrash: {restart_delay_ms: 1}\n" + more);
    daemon_.wait_ready();
  }
  static Session session_of(const Received& answer) {
    const wire::SessionOpened* opened = answer.message().body_as_SessionOpened();
    if (opened == nullptr) throw std::runtime_error(answer.status().to_string());
    return {opened->session_id()->str(), opened->session_handle()};
  }
  static float step(TestLane& lane, const Session& session) {
    lane.submit(kEcho, 1, 0, session.handle);
    const std::optional<CompletionEntry> completion = lane.completion();
    if (!completion || completion->status != 0) return -1;
    return lane.output(*completion);
  }
  static std::uint32_t session_count(ControlClient& client) {
    return client.ask(kGetStatus).message().body_as_StatusReport()->sessions();
  }
  TestSupervisor daemon_;
};

TEST_F(SupervisorSessionTest, each_session_has_state_of_its_own) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session a = session_of(client.ask(open_session("m")));
  const Session b = session_of(client.ask(open_session("m")));
  EXPECT_EQ(a.id.size(), 32u);
  EXPECT_NE(a.id, b.id);
  EXPECT_EQ(step(lane, a), 101);
  EXPECT_EQ(step(lane, a), 102);
  EXPECT_EQ(step(lane, b), 101);
  EXPECT_EQ(session_count(client), 2u);
}

TEST_F(SupervisorSessionTest, a_closed_session_leaves_no_trace_in_the_next) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session a = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, a), 101);
  EXPECT_EQ(client.ask(close_session(a.id)).type(), wire::Body::Ok);
  EXPECT_EQ(step(lane, a), -1);
  EXPECT_EQ(client.ask(close_session(a.id)).status().code(), StatusCode::kNotFound);
  const Session b = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, b), 101);
  EXPECT_EQ(session_count(client), 1u);
}

TEST_F(SupervisorSessionTest, a_session_survives_its_connection_and_can_be_resumed) {
  serve_counter();
  Session session;
  {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("m")));
    session = session_of(client.ask(open_session("m")));
    EXPECT_EQ(step(lane, session), 101);
    ControlClient second = daemon_.connect();
    EXPECT_EQ(second.ask(open_session("m", session.id)).status().code(),
              StatusCode::kFailedPrecondition);
  }
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  // The first connection's end may still be on its way.
  ASSERT_TRUE(eventually([&] {
    const Received answer = client.ask(open_session("m", session.id));
    if (answer.status().ok()) session = session_of(answer);
    return answer.status().ok();
  }));
  EXPECT_EQ(step(lane, session), 102);
  EXPECT_EQ(client.ask(open_session("m", std::string(32, '0'))).status().code(),
            StatusCode::kNotFound);
}

TEST_F(SupervisorSessionTest, state_survives_the_worker_except_of_the_torn_session) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session whole = session_of(client.ask(open_session("m")));
  const Session torn = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, whole), 101);
  EXPECT_EQ(step(lane, torn), 101);
  lane.submit(kCrash, 1, 0, torn.handle);
  lane.wait_closed();
  EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  TestLane again(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(again, whole), 102);
  EXPECT_EQ(step(again, torn), -1);
  const Status status = client.ask(open_session("m", torn.id)).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("torn"));
  EXPECT_EQ(client.ask(close_session(torn.id)).type(), wire::Body::Ok);
  EXPECT_EQ(session_count(client), 1u);
}

TEST_F(SupervisorSessionTest, state_survives_a_reload_with_the_same_states) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  const auto reload = [](FlatBufferBuilder& builder) {
    return wire::CreateLoadModel(builder, builder.CreateString("m.pt"), builder.CreateString("m"),
                                 20000);
  };
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  EXPECT_EQ(client.ask(reload).type(), wire::Body::Ok);
  EXPECT_EQ(client.event().type(), wire::Body::LaneClosed);
  TestLane second(client.ask(open_lane_request("m")), &lane);
  EXPECT_EQ(step(second, session), 102);
  daemon_.write_artifact("m.pt", "name: m\nstates: 2");
  EXPECT_EQ(client.ask(reload).type(), wire::Body::Ok);
  EXPECT_EQ(client.event().type(), wire::Body::LaneClosed);
  const Status status = client.ask(open_session("m", session.id)).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("other states"));
}

TEST_F(SupervisorSessionTest, sessions_end_with_a_model_that_cannot_be_loaded_again) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  session_of(client.ask(open_session("m")));
  std::ofstream(daemon_.folder() / "models/m.pt") << "name: m\nload: die\n";
  lane.submit(kCrash, 1);
  lane.wait_closed();
  ASSERT_TRUE(eventually([&] { return client.state_of("m").starts_with("quarantined"); }));
  EXPECT_EQ(session_count(client), 0u);
}

TEST_F(SupervisorSessionTest, an_arena_that_the_worker_refused_is_not_used_again) {
  daemon_.write_artifact("m.pt", "name: m\nstates: 1\narenas: refuse_once");
  daemon_.start("models: [{path: m.pt, name: m}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.ask(open_session("m")).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(session_count(client), 0u);
  TestLane lane(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(lane, session_of(client.ask(open_session("m")))), 101);
}

TEST_F(SupervisorSessionTest, one_user_cannot_fill_a_workers_queue_of_questions) {
  serve_counter();
  const std::filesystem::path gate = daemon_.folder() / "gate";
  daemon_.write_artifact("slow.pt", "name: slow\nhold: " + gate.string());
  ControlClient client = daemon_.connect();
  const std::uint64_t loading = client.send([](FlatBufferBuilder& builder) {
    return wire::CreateLoadModel(builder, builder.CreateString("slow.pt"),
                                 builder.CreateString("slow"), 20000);
  });
  // From here on the worker answers nothing.
  ASSERT_TRUE(eventually([&] { return std::filesystem::exists(gate.string() + ".reached"); }));
  std::vector<std::uint64_t> asked;
  for (int i = 0; i < 200; ++i) asked.push_back(client.send(open_session("m")));
  client.ask(kGetStatus);  // all of them have been looked at
  std::ofstream(gate) << "open";
  int opened = 0;
  for (const std::uint64_t id : asked) {
    const Status status = client.answer(id).status();
    if (status.ok()) {
      ++opened;
    } else {
      EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
    }
  }
  EXPECT_EQ(opened, 128);
  EXPECT_EQ(client.answer(loading).type(), wire::Body::Ok);
}

TEST_F(SupervisorSessionTest, sessions_end_with_their_model) {
  serve_counter();
  ControlClient client = daemon_.connect();
  session_of(client.ask(open_session("m")));
  EXPECT_EQ(client
                .ask([](FlatBufferBuilder& builder) {
                  return wire::CreateUnloadModel(builder, builder.CreateString("m"));
                })
                .type(),
            wire::Body::Ok);
  EXPECT_EQ(session_count(client), 0u);
}

TEST_F(SupervisorSessionTest, sessions_are_limited_and_idle_ones_end) {
  serve_counter("limits: {max_sessions_per_user: 2, session_idle_s: 1}\n");
  ControlClient watcher = daemon_.connect();
  {
    ControlClient client = daemon_.connect();
    session_of(client.ask(open_session("m")));
    session_of(client.ask(open_session("m")));
    const Status status = client.ask(open_session("m")).status();
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr("limits.max_sessions_per_user"));
  }
  EXPECT_EQ(session_count(watcher), 2u);
  EXPECT_TRUE(eventually([&] { return session_count(watcher) == 0; }));
}

TEST_F(SupervisorSessionTest, a_model_without_state_has_no_sessions) {
  daemon_.write_artifact("m.pt", "name: m");
  daemon_.start("models: [{path: m.pt}]");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  EXPECT_EQ(client.ask(open_session("m")).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client.ask(open_session("x")).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace bucketd::testing
