// The supervisor as a process: state of scope `model`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/wire/model_wire.h"
#include "daemon/supervisor/testing/session_requests.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using wire::SessionOperation;

class SupervisorModelStateTest : public SessionTest {
 protected:
  static Session state_of(const TestLane& lane) {
    return {"", lane.opened().default_session_handle()};
  }
  // The id of the only session that there is.
  static std::string only_id(ControlClient& client) {
    const Received list = client.ask(list_sessions());
    const auto* sessions = list.message().body_as_SessionList()->sessions();
    if (sessions->size() != 1) throw std::runtime_error("not one session is listed");
    return sessions->Get(0)->session_id()->str();
  }
};

TEST_F(SupervisorModelStateTest, state_of_scope_model_needs_no_session) {
  serve_counter("", "", ", state_scope: model");
  ControlClient client = daemon_.connect();
  ControlClient second = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  TestLane second_lane(second.ask(open_lane_request("m")));
  const Session state{"", lane.opened().default_session_handle()};
  EXPECT_NE(state.handle, 0u);
  EXPECT_EQ(second_lane.opened().default_session_handle(), state.handle);
  EXPECT_EQ(step(lane, state), 101);
  EXPECT_EQ(step(second_lane, state), 102);
  EXPECT_EQ(client.ask(open_session("m")).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(session_count(client), 1u);
}

TEST_F(SupervisorModelStateTest, state_of_scope_model_survives_its_connections_and_its_worker) {
  serve_counter("sessions: {idle_timeout_ms: 1}\n", "", ", state_scope: model");
  {
    ControlClient client = daemon_.connect();
    TestLane lane(client.ask(open_lane_request("m")));
    EXPECT_EQ(step(lane, {"", lane.opened().default_session_handle()}), 101);
  }
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(lane, {"", lane.opened().default_session_handle()}), 102);
  tear(client, lane, Session());
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(second, {"", second.opened().default_session_handle()}), 103);
}

TEST_F(SupervisorModelStateTest, that_is_torn_says_so_and_is_mended_by_its_id) {
  serve_counter("", "", ", state_scope: model");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const Session state = state_of(lane);
  EXPECT_EQ(step(lane, state), 101);
  tear(client, lane, state);
  const Status torn = client.ask(open_lane_request("m")).status();
  EXPECT_EQ(torn.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(torn.message(), HasSubstr("the state of model 'm' is torn"));
  const std::string id = only_id(client);
  EXPECT_THAT(torn.message(), HasSubstr("reset it by its id, " + id));
  EXPECT_EQ(summary_of(client.ask(list_sessions()), id)->state(), wire::SessionState::kTorn);
  EXPECT_EQ(summary_of(client.ask(list_sessions()), id)->scope(), wire::SessionScope::kModel);
  EXPECT_EQ(client.ask(close_session(id)).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client.ask(operate_idle(id, SessionOperation::kReset)).status(), Status());
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(second.opened().default_session_handle(), state.handle);
  EXPECT_EQ(step(second, state), 101);
  // One that is whole is reset under its users' feet, in their order.
  EXPECT_EQ(client.ask(operate_idle(id, SessionOperation::kReset)).status(), Status());
  EXPECT_EQ(step(second, state), 101);
}

TEST_F(SupervisorModelStateTest, that_is_shared_and_torn_names_no_id) {
  serve_counter("", "", ", state_scope: model, share_across_users: true");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  tear(client, lane, state_of(lane));
  const Status torn = client.ask(open_lane_request("m")).status();
  EXPECT_EQ(torn.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(torn.message(), HasSubstr("an administrator can reset it"));
  ControlClient admin = daemon_.connect();
  const std::string id = only_id(admin);
  EXPECT_THAT(torn.message(), Not(HasSubstr(id)));
  EXPECT_EQ(admin.ask(operate_idle(id, SessionOperation::kReset)).status(), Status());
  TestLane second(client.ask(open_lane_request("m")));
  EXPECT_EQ(step(second, state_of(second)), 101);
}

TEST_F(SupervisorModelStateTest, is_not_given_up) {
  serve_counter("", "", ", state_scope: model");
  ControlClient client = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  const std::string id = only_id(client);
  EXPECT_EQ(session_of(client.ask(open_session("m", id))).handle, state_of(lane).handle);
  const Status status = client.ask(close_session(id, true)).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("is the state of model 'm'"));
  EXPECT_EQ(step(lane, state_of(lane)), 101) << "its lane lost it";
}

TEST_F(SupervisorModelStateTest, goes_on_over_a_reload_with_the_same_states_and_ends_with_others) {
  serve_counter("", "", ", state_scope: model");
  ControlClient client = daemon_.connect();
  ControlClient second = daemon_.connect();
  TestLane lane(client.ask(open_lane_request("m")));
  TestLane second_lane(second.ask(open_lane_request("m")));
  const Session state = state_of(lane);
  EXPECT_EQ(step(lane, state), 101);
  EXPECT_EQ(step(second_lane, state), 102);
  const auto reload = [&](const std::string& states) {
    daemon_.write_artifact("m.pt", "name: m\nstates: " + states);
    EXPECT_EQ(client
                  .ask([](FlatBufferBuilder& builder) {
                    return wire::CreateLoadModel(builder, builder.CreateString("m.pt"),
                                                 builder.CreateString("m"), 20000);
                  })
                  .status(),
              Status());
    // Both lanes were open.
    EXPECT_EQ(client.event().type(), wire::Body::LaneClosed);
    EXPECT_EQ(second.event().type(), wire::Body::LaneClosed);
  };
  reload("1");
  TestLane lane_after(client.ask(open_lane_request("m")), &lane);
  TestLane second_lane_after(second.ask(open_lane_request("m")), &second_lane);
  EXPECT_EQ(state_of(lane_after).handle, state.handle);
  EXPECT_EQ(step(lane_after, state), 103);
  EXPECT_EQ(step(second_lane_after, state), 104);
  EXPECT_EQ(session_count(client), 1u);
  reload("2");
  EXPECT_EQ(session_count(client), 0u);
  TestLane fresh(client.ask(open_lane_request("m")), &lane);
  EXPECT_NE(state_of(fresh).handle, state.handle);
  EXPECT_EQ(step(fresh, state_of(fresh)), 101);
}

}  // namespace
}  // namespace bucketd::testing
