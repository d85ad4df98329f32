// The supervisor as a process: sessions and their state.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "daemon/supervisor/testing/session_requests.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;

using SupervisorSessionTest = SessionTest;

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

TEST_F(SupervisorSessionTest, every_way_not_to_have_a_session_is_told_apart) {
  daemon_.write_artifact("n.pt", "name: n\nstates: 1");
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  daemon_.start("models: [{path: m.pt}, {path: n.pt}]\nsessions: {idle_timeout_ms: 300}");
  daemon_.wait_ready();
  ControlClient client = daemon_.connect();
  ControlClient second = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  const Status unknown = client.ask(open_session("m", std::string(32, '0'))).status();
  EXPECT_EQ(unknown.to_string(), "NOT_FOUND: this user has no session of that id");
  const Status other = client.ask(open_session("n", session.id)).status();
  EXPECT_EQ(other.to_string(), "INVALID_ARGUMENT: the session is of model 'm', not of model 'n'");
  EXPECT_EQ(second.ask(open_session("m", session.id)).status().to_string(),
            "FAILED_PRECONDITION: the session is in use by another connection of this user");
  const Session closed = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(close_session(closed.id)).type(), wire::Body::Ok);
  EXPECT_EQ(client.ask(open_session("m", closed.id)).status().to_string(),
            "NOT_FOUND: the session was closed");
  EXPECT_EQ(client.ask(close_session(session.id, true)).type(), wire::Body::Ok);
  ASSERT_TRUE(eventually([&] { return session_count(client) == 0; }));
  EXPECT_EQ(client.ask(open_session("m", session.id)).status().to_string(),
            "NOT_FOUND: the session ended after 300 ms without use ('sessions.idle_timeout_ms')");
}

TEST_F(SupervisorSessionTest, asking_again_for_a_session_that_one_has_gives_the_same) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  const Session again = session_of(client.ask(open_session("m", session.id)));
  EXPECT_EQ(again.id, session.id);
  EXPECT_EQ(again.handle, session.handle);
  EXPECT_EQ(step(lane, session), 101);
  // While its worker is away, the answer waits until the session is bound again.
  tear(client, lane, Session());
  const Session later = session_of(client.ask(open_session("m", session.id)));
  EXPECT_EQ(later.handle, session.handle);
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(second, session), 102);
}

TEST_F(SupervisorSessionTest, a_session_that_was_given_up_is_there_for_another_connection) {
  serve_counter();
  ControlClient first = daemon_.connect();
  ControlClient second = daemon_.connect();
  TestLane first_lane(first.ask(open_lane_request("m")));
  TestLane second_lane(second.ask(open_lane_request("m")));
  const Session session = session_of(first.ask(open_session("m")));
  EXPECT_EQ(step(first_lane, session), 101);
  EXPECT_EQ(second.ask(close_session(session.id, true)).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(first.ask(close_session(session.id, true)).type(), wire::Body::Ok);
  const Session resumed = session_of(second.ask(open_session("", session.id)));
  EXPECT_EQ(step(second_lane, resumed), 102);
  EXPECT_EQ(step(first_lane, session), -1);
}

TEST_F(SupervisorSessionTest, the_longest_idle_one_makes_room_where_that_is_configured) {
  serve_counter("sessions: {per_user: 2, when_full: evict_longest_idle}\n");
  ControlClient client = daemon_.connect();
  const Session a = session_of(client.ask(open_session("m")));
  const Session b = session_of(client.ask(open_session("m")));
  // Both are open: nothing can be evicted.
  EXPECT_EQ(client.ask(open_session("m")).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(client.ask(close_session(b.id, true)).type(), wire::Body::Ok);
  EXPECT_EQ(client.ask(close_session(a.id, true)).type(), wire::Body::Ok);
  // The worker has released them: what was given up can be evicted at once.
  session_of(client.ask(open_session("m")));
  const Status evicted = client.ask(open_session("m", b.id)).status();
  EXPECT_EQ(evicted.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(evicted.message(), HasSubstr("was evicted after"));
  EXPECT_EQ(session_of(client.ask(open_session("m", a.id))).id, a.id);
}

TEST_F(SupervisorSessionTest, memory_for_state_is_limited_too) {
  serve_counter("sessions: {bytes_per_user: 8192}\n");
  ControlClient client = daemon_.connect();
  const Session a = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(operate(a.id, wire::SessionOperation::kCheckpoint)).status(), Status());
  const Status status = client.ask(open_session("m")).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("'sessions.bytes_per_user' is 8192"));
  // A second checkpoint needs room beside the first.
  EXPECT_EQ(client.ask(operate(a.id, wire::SessionOperation::kCheckpoint)).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(client.ask(close_session(a.id)).type(), wire::Body::Ok);
  session_of(client.ask(open_session("m")));
}

TEST_F(SupervisorSessionTest, sessions_are_limited_and_idle_ones_end) {
  serve_counter("sessions: {per_user: 2, idle_timeout_ms: 300}\n");
  ControlClient watcher = daemon_.connect();
  {
    ControlClient client = daemon_.connect();
    session_of(client.ask(open_session("m")));
    session_of(client.ask(open_session("m")));
    const Status status = client.ask(open_session("m")).status();
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr("sessions.per_user"));
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
