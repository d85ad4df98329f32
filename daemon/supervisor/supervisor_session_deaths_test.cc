// The supervisor as a process: who pays for deaths by what is done to sessions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "daemon/supervisor/testing/session_requests.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;
using wire::SessionOperation;

class SupervisorSessionDeathsTest : public SessionTest {
 protected:
  void serve(const std::string& artifact) { serve_counter("", artifact); }
  static void expect_refused(const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::kPermissionDenied) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("model 'm' is refused to this user"));
  }
};

TEST_F(SupervisorSessionDeathsTest, an_operation_that_kills_its_worker_is_charged) {
  serve("operations: die\n");
  ControlClient client = daemon_.connect();
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(client.ask(operate(session.id, SessionOperation::kCheckpoint)).status(), Status());
  for (int i = 0; i < 3; ++i) {
    const Status died = client.ask(operate(session.id, SessionOperation::kReset)).status();
    EXPECT_EQ(died.code(), StatusCode::kUnavailable) << died.to_string();
  }
  expect_refused(client.ask(operate(session.id, SessionOperation::kReset)).status());
  expect_refused(client.ask(open_lane_request("m")).status());
  EXPECT_EQ(client.ask(close_session(session.id)).status(), Status());
}

TEST_F(SupervisorSessionDeathsTest, so_is_a_copy_although_it_tears_nothing) {
  serve("operations: die_of_copies\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  for (int i = 0; i < 3; ++i) {
    const Status died = client.ask(operate(session.id, SessionOperation::kCheckpoint)).status();
    EXPECT_EQ(died.code(), StatusCode::kUnavailable) << died.to_string();
    EXPECT_THAT(died.message(), HasSubstr("the state is as it was"));
  }
  EXPECT_EQ(element(client, session), 101);
  expect_refused(client.ask(open_session("m", session.id)).status());
}

TEST_F(SupervisorSessionDeathsTest,
       a_session_whose_binding_kills_the_worker_is_not_bound_for_ever) {
  const std::filesystem::path fatal = daemon_.folder() / "bindings-are-fatal";
  serve("bindings: " + fatal.string() + "\n");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session session = session_of(client.ask(open_session("m")));
  EXPECT_EQ(step(lane, session), 101);
  std::ofstream(fatal) << "from now on";
  tear(client, lane, Session());  // one death; the next ones are the binding's
  expect_refused(client.ask(open_session("m", session.id)).status());
  std::filesystem::remove(fatal);
  // The worker is left in peace, and the state is as it was.
  EXPECT_EQ(summary_of(client.ask(list_sessions()), session.id)->state(),
            wire::SessionState::kIdle);
  EXPECT_EQ(element(client, session), 101);
  const Received answer = client.ask(kGetStatus);
  EXPECT_EQ(answer.message().body_as_StatusReport()->workers()->Get(0)->restarts(), 3u);
}

TEST_F(SupervisorSessionDeathsTest, a_new_session_whose_initial_values_kill_the_worker_is_charged) {
  const std::filesystem::path fatal = daemon_.folder() / "bindings-are-fatal";
  std::ofstream(fatal) << "always";
  serve("bindings: " + fatal.string() + "\n");
  ControlClient client = daemon_.connect();
  int died = 0;
  // UNAVAILABLE also while the worker is away.
  ASSERT_TRUE(eventually([&] {
    const Status status = client.ask(open_session("m")).status();
    died += status.message().find("died") != std::string::npos ? 1 : 0;
    return status.code() == StatusCode::kPermissionDenied;
  }));
  EXPECT_EQ(died, 3);
  EXPECT_EQ(session_count(client), 0u);
}

}  // namespace
}  // namespace bucketd::testing
