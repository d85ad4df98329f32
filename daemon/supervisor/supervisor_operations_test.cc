// The supervisor as a process: operations on sessions, and state of scope `model`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "daemon/supervisor/testing/session_requests.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;
using wire::SessionOperation;

using SupervisorOperationsTest = SessionTest;

TEST_F(SupervisorOperationsTest, reset_gives_the_initial_values) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  const Session after = session_of(client.ask(operate(session.id, SessionOperation::kReset)));
  EXPECT_EQ(after.handle, session.handle);
  EXPECT_EQ(step(lane, session), 101);
}

TEST_F(SupervisorOperationsTest, a_checkpoint_is_what_restore_goes_back_to) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  const Status none = client.ask(operate(session.id, SessionOperation::kRestore)).status();
  EXPECT_EQ(none.to_string(), "FAILED_PRECONDITION: the session has no checkpoint to restore");
  for (const float value : {101.0F, 102.0F}) {
    EXPECT_EQ(step(lane, session), value);
    EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kCheckpoint)).status(), Status());
  }
  EXPECT_EQ(step(lane, session), 103);
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kRestore)).status(), Status());
  EXPECT_EQ(element(client, session), 102);
  EXPECT_EQ(step(lane, session), 103);
}

TEST_F(SupervisorOperationsTest, a_torn_session_is_mended_by_reset_or_restore) {
  serve_counter("", "", "");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session kept = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, kept), 101);
  EXPECT_EQ(client.ask(operate(kept.id, SessionOperation::kCheckpoint)).status(), Status());
  EXPECT_EQ(step(lane, kept), 102);
  tear(client, lane, kept);
  // Nothing else is done to it before.
  const Status torn = client.ask(operate(kept.id, SessionOperation::kCheckpoint)).status();
  EXPECT_EQ(torn.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(torn.message(), HasSubstr("torn"));
  EXPECT_EQ(client.ask(fork_session(kept.id)).status().code(), StatusCode::kFailedPrecondition);
  const Received list = client.ask(list_sessions());
  EXPECT_EQ(summary_of(list, kept.id)->state(), wire::SessionState::kTorn);
  EXPECT_THAT(summary_of(list, kept.id)->reason()->str(), HasSubstr("restore its checkpoint"));
  const Session restored = session_of(client.ask(operate(kept.id, SessionOperation::kRestore)));
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(second, restored), 102);
  tear(client, second, restored);
  const Session reset = session_of(client.ask(operate(kept.id, SessionOperation::kReset)));
  TestLane third(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(third, reset), 101);
  EXPECT_EQ(element(client, reset), 101);
}

TEST_F(SupervisorOperationsTest, a_torn_session_that_nobody_has_is_opened_by_its_mending) {
  serve_counter();
  Session session;
  {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("m")));
    session = session_of(client.ask(open_session("m")));
    tear(client, lane, session);
  }
  ControlClient client = daemon_.connect();
  Session mended;
  // The first connection's end may still be on its way.
  ASSERT_TRUE(eventually([&] {
    const Received answer = client.ask(operate(session.id, SessionOperation::kReset));
    if (answer.status().ok()) mended = session_of(answer);
    return answer.status().ok();
  }));
  TestLane lane(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(lane, mended), 101);
}

TEST_F(SupervisorOperationsTest, a_session_that_nobody_has_may_be_mended_without_being_opened) {
  serve_counter();
  ControlClient client = daemon_.connect();
  ControlClient second = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kCheckpoint)).status(), Status());
  EXPECT_THAT(second.ask(operate_idle(session.id, SessionOperation::kReset)).status().message(),
              HasSubstr("in use by another connection"));
  tear(client, lane, session);
  // The torn one is still open to its connection.
  EXPECT_EQ(client.ask(close_session(session.id, true)).status(), Status());
  EXPECT_EQ(second.ask(operate_idle(session.id, SessionOperation::kReset)).status(), Status());
  EXPECT_EQ(summary_of(client.ask(list_sessions()), session.id)->state(),
            wire::SessionState::kIdle);
  EXPECT_EQ(element(client, session), 100);
  // Also one that is whole, but only what mends.
  EXPECT_EQ(second.ask(operate_idle(session.id, SessionOperation::kRestore)).status(), Status());
  EXPECT_EQ(element(client, session), 101);
  EXPECT_THAT(
      second.ask(operate_idle(session.id, SessionOperation::kCheckpoint)).status().message(),
      HasSubstr("does not have the session open"));
  TestLane second_lane(second.ask(open_lane_request("m")));
  EXPECT_EQ(step(second_lane, session_of(second.ask(open_session("m", session.id)))), 102);
}

TEST_F(SupervisorOperationsTest, a_mending_whose_asker_is_gone_leaves_an_idle_session) {
  serve_counter("sessions: {idle_timeout_ms: 200}\n");
  ControlClient watcher = daemon_.connect();
  {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("m")));
    const Session session = session_of(client.ask(open_session("m")));
    tear(client, lane, session);
    client.send(operate(session.id, SessionOperation::kReset));
    client.send(operate(session.id, SessionOperation::kReset));
  }
  EXPECT_TRUE(eventually([&] { return session_count(watcher) == 0; }));
}

TEST_F(SupervisorOperationsTest, a_worker_that_dies_during_an_operation_leaves_a_torn_session) {
  serve_counter("", "operations: die\n");
  ControlClient client = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kCheckpoint)).status(), Status());
  const Status died = client.ask(operate(session.id, SessionOperation::kReset)).status();
  EXPECT_EQ(died.code(), StatusCode::kUnavailable);
  const Status torn = client.ask(open_session("m", session.id)).status();
  EXPECT_EQ(torn.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(torn.message(), HasSubstr("torn"));
  EXPECT_TRUE(summary_of(client.ask(list_sessions()), session.id)->has_checkpoint());
}

TEST_F(SupervisorOperationsTest,
       a_worker_that_dies_before_an_operation_leaves_the_state_as_it_was) {
  serve_counter("", "operations: die_before\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  for (const SessionOperation operation :
       {SessionOperation::kReset, SessionOperation::kCheckpoint}) {
    const Status died = client.ask(operate(session.id, operation)).status();
    EXPECT_EQ(died.code(), StatusCode::kUnavailable);
    EXPECT_THAT(died.message(), HasSubstr("the state is as it was"));
    EXPECT_EQ(session_of(client.ask(open_session("m", session.id))).handle, session.handle);
  }
  EXPECT_EQ(element(client, session), 101);
}

TEST_F(SupervisorOperationsTest, truncate_needs_lengths_that_fit) {
  serve_counter("", "align: right\nlength: 8\n");
  ControlClient client = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kTruncate, 3)).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kTruncate, 9, 8)).status().code(),
            StatusCode::kOutOfRange);
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kTruncate, 3, 8)).status(), Status());
}

TEST_F(SupervisorOperationsTest, a_fork_goes_its_own_way) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  const Session fork = session_of(client.ask(fork_session(session.id)));
  EXPECT_NE(fork.id, session.id);
  EXPECT_EQ(step(lane, session), 102);
  EXPECT_EQ(step(lane, session), 103);
  EXPECT_EQ(step(lane, fork), 102);
  EXPECT_EQ(client.ask(close_session(session.id)).type(), wire::Body::Ok);
  EXPECT_EQ(step(lane, fork), 103);
}

TEST_F(SupervisorOperationsTest, of_a_session_that_is_not_open_here_are_refused) {
  serve_counter();
  ControlClient client = daemon_.connect();
  ControlClient second = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(second.ask(operate(session.id, SessionOperation::kReset)).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(client.ask(close_session(session.id, true)).type(), wire::Body::Ok);
  EXPECT_THAT(client.ask(fork_session(session.id)).status().message(),
              HasSubstr("does not have the session open"));
  EXPECT_EQ(client.ask(fork_session("unknown")).status().code(), StatusCode::kNotFound);
}

TEST_F(SupervisorOperationsTest, operations_take_effect_after_requests_that_were_before) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  for (int round = 0; round < 50; ++round) {
    lane.submit(kEcho, 1, 0, session.handle);
    EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kReset)).status(), Status());
    EXPECT_EQ(element(client, session), 100);
    ASSERT_TRUE(lane.completion().has_value());
  }
}

TEST_F(SupervisorOperationsTest, states_are_read_in_bounded_pieces) {
  serve_counter("", "length: 40000\n");
  ControlClient client = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(element(client, session, 39999), 100);
  const Received piece = client.ask(read_state(session.id, 0, 0, kMaxStateReadBytes));
  ASSERT_EQ(piece.type(), wire::Body::StateBytes) << piece.status().to_string();
  EXPECT_EQ(piece.message().body_as_StateBytes()->bytes()->size(), kMaxStateReadBytes);
  EXPECT_EQ(piece.message().body_as_StateBytes()->total_bytes(), 160000u);
  const Received rest = client.ask(read_state(session.id, 0, 159996, 100));
  EXPECT_EQ(rest.message().body_as_StateBytes()->bytes()->size(), 4u);
  EXPECT_EQ(client.ask(read_state(session.id, 0, 0, kMaxStateReadBytes + 1)).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(client.ask(read_state(session.id, 0, 160001, 1)).status().code(),
            StatusCode::kOutOfRange);
  EXPECT_EQ(client.ask(read_state(session.id, 1, 0, 1)).status().code(), StatusCode::kOutOfRange);
}

TEST_F(SupervisorOperationsTest, lists_tell_what_there_is) {
  serve_counter();
  ControlClient client = daemon_.connect();
  const Session open = session_of(client.ask(open_session("m")));
  const Session idle = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(operate(open.id, SessionOperation::kCheckpoint)).status(), Status());
  EXPECT_EQ(client.ask(close_session(idle.id, true)).type(), wire::Body::Ok);
  const Received list = client.ask(list_sessions(true));
  EXPECT_TRUE(list.message().body_as_SessionList()->is_complete());
  EXPECT_EQ(list.message().body_as_SessionList()->sessions()->size(), 2u);
  const wire::SessionSummary* summary = summary_of(list, open.id);
  EXPECT_EQ(summary->state(), wire::SessionState::kOpen);
  EXPECT_EQ(summary->uid(), ::getuid());
  EXPECT_EQ(summary->model()->str(), "m");
  EXPECT_EQ(summary->state_bytes(), 64u);
  EXPECT_TRUE(summary->has_checkpoint());
  EXPECT_EQ(summary_of(list, idle.id)->state(), wire::SessionState::kIdle);
}

TEST_F(SupervisorOperationsTest, requests_are_counted_over_the_workers_death) {
  serve_counter();
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  const auto requests_of = [&](const Session& of) {
    return summary_of(client.ask(list_sessions()), of.id)->requests();
  };
  EXPECT_EQ(requests_of(session), 0u);
  for (int i = 0; i < 3; ++i) EXPECT_GT(step(lane, session), 100);
  EXPECT_EQ(requests_of(session), 3u);
  const Session fork = session_of(client.ask(fork_session(session.id)));
  EXPECT_EQ(requests_of(fork), 0u) << "they are not its own";
  tear(client, lane, Session());
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(session_of(client.ask(open_session("m", session.id))).handle, session.handle);
  EXPECT_EQ(step(second, session), 104);
  EXPECT_EQ(requests_of(session), 4u);
}

TEST_F(SupervisorOperationsTest, a_list_that_is_too_long_says_so) {
  serve_counter("sessions: {per_user: 3000}\n");
  ControlClient client = daemon_.connect();
  for (int i = 0; i < 2000; ++i) session_of(client.ask(open_session("m")));
  const Received list = client.ask(list_sessions());
  const wire::SessionList& sessions = *list.message().body_as_SessionList();
  EXPECT_EQ(sessions.is_complete(), sessions.sessions()->size() == 2000);
  EXPECT_FALSE(sessions.is_complete());
  EXPECT_GT(sessions.sessions()->size(), 500u);
}

TEST_F(SupervisorOperationsTest, nothing_is_left_of_sessions_that_were_closed) {
  serve_counter();
  ControlClient client = daemon_.connect();
  const auto descriptors = [&] {
    const auto folder = "/proc/" + std::to_string(daemon_.pid()) + "/fd";
    return std::distance(std::filesystem::directory_iterator(folder),
                         std::filesystem::directory_iterator());
  };
  const auto arenas_of_worker = [&] {
    const Received answer = client.ask(kGetStatus);
    const auto* workers = answer.message().body_as_StatusReport()->workers();
    std::ifstream maps("/proc/" + std::to_string(workers->Get(0)->pid()) + "/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) {
      count += line.find("bucketd-state") != std::string::npos ? 1 : 0;
    }
    return count;
  };
  // The process that tried the artifact out has ended; after another turn of the daemon its
  // descriptors are closed too.
  EXPECT_TRUE(eventually([&] {
    const std::string pid = std::to_string(daemon_.pid());
    std::ifstream children("/proc/" + pid + "/task/" + pid + "/children");
    return std::distance(std::istream_iterator<pid_t>(children), std::istream_iterator<pid_t>()) ==
           1;
  }));
  EXPECT_EQ(arenas_of_worker(), 0);
  const auto before = descriptors();
  for (int i = 0; i < 1000; ++i) {
    const Session session = session_of(client.ask(open_session("m")));
    if (i % 100 == 0) {
      EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kCheckpoint)).status(), Status());
      EXPECT_EQ(arenas_of_worker(), 2);
    }
    ASSERT_EQ(client.ask(close_session(session.id)).type(), wire::Body::Ok);
  }
  EXPECT_EQ(descriptors(), before);
  EXPECT_TRUE(eventually([&] { return arenas_of_worker() == 0; }));
}

}  // namespace
}  // namespace bucketd::testing
