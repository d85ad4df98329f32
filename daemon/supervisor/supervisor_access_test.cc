// The supervisor as a process, seen by users of different rights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>

#include "daemon/supervisor/testing/session_requests.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What another user than the daemon's can do and see. Only root can become one.
class SupervisorAccessTest : public ::testing::Test {
 protected:
  static constexpr uid_t kStranger = 64001;
  static constexpr uid_t kOther = 64002;
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to connect as another user";
    std::filesystem::permissions(daemon_.folder(), std::filesystem::perms(0755));
  }
  void serve_echo(const std::string& more = "") {
    daemon_.write_artifact("echo.pt", "name: echo");
    daemon_.start("models: [{path: echo.pt}]\n" + more);
    daemon_.wait_ready();
  }
  ControlClient connect_as(uid_t uid) {
    if (::seteuid(uid) != 0) throw std::runtime_error("seteuid");
    std::optional<ControlClient> client;
    try {
      client.emplace(daemon_.socket_path());
    } catch (...) {
      [[maybe_unused]] const int back = ::seteuid(0);
      throw;
    }
    [[maybe_unused]] const int back = ::seteuid(0);
    return std::move(*client);
  }
  TestSupervisor daemon_;
};

TEST_F(SupervisorAccessTest, an_ordinary_user_may_infer_and_not_administer) {
  serve_echo();
  ControlClient client = connect_as(kStranger);
  const Received welcome = client.ask(
      [](FlatBufferBuilder& builder) { return wire::CreateHello(builder, kProtocolMajor, 0, 1); });
  ASSERT_EQ(welcome.type(), wire::Body::Welcome);
  EXPECT_FALSE(welcome.message().body_as_Welcome()->is_admin());
  EXPECT_EQ(client.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
  EXPECT_EQ(client
                .ask([](FlatBufferBuilder& builder) {
                  return wire::CreateLoadModel(builder, builder.CreateString("echo.pt"),
                                               builder.CreateString("x"), 0);
                })
                .status()
                .code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(client
                .ask([](FlatBufferBuilder& builder) {
                  return wire::CreateUnloadModel(builder, builder.CreateString("echo"));
                })
                .status()
                .code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(client.state_of("echo"), "ready");
}

TEST_F(SupervisorAccessTest, an_ordinary_user_sees_no_paths_and_an_administrator_does) {
  daemon_.start("models: [{path: missing.pt, name: missing}]");
  daemon_.wait_ready();
  ControlClient stranger = connect_as(kStranger);
  stranger.greet();
  EXPECT_THAT(stranger.state_of("missing"), HasSubstr("failed: "));
  EXPECT_THAT(stranger.state_of("missing"), Not(HasSubstr("missing.pt")));
  const Status status = stranger.ask(open_lane_request("missing")).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), Not(HasSubstr("missing.pt")));
  ControlClient admin = daemon_.connect();
  EXPECT_THAT(admin.state_of("missing"), HasSubstr("missing.pt"));
  EXPECT_THAT(admin.ask(open_lane_request("missing")).status().message(), HasSubstr("missing.pt"));
}

TEST_F(SupervisorAccessTest, a_user_who_is_not_listed_is_refused_with_a_reason) {
  serve_echo("access: {users: [64002]}\n");
  ControlClient stranger = connect_as(kStranger);
  const Status status = stranger.event().status();
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("user 64001 may not use this daemon"));
  EXPECT_TRUE(stranger.wait_closed());
  connect_as(kOther).greet();
}

TEST_F(SupervisorAccessTest, a_user_who_kills_workers_is_refused_and_others_are_not) {
  serve_echo("crash: {deaths_per_client: 1, restart_delay_ms: 1}\n");
  ControlClient killer = connect_as(kStranger);
  killer.greet();
  TestLane lane(killer.ask(open_lane_request("echo")));
  lane.submit(1, 1);
  lane.wait_closed();
  EXPECT_EQ(killer.event().type(), wire::Body::ChannelClosed);
  EXPECT_EQ(killer.ask(open_lane_request("echo")).status().code(), StatusCode::kPermissionDenied);
  ControlClient other = connect_as(kOther);
  other.greet();
  EXPECT_EQ(other.ask(open_lane_request("echo")).type(), wire::Body::LaneOpened);
}

TEST_F(SupervisorAccessTest, sessions_of_another_user_do_not_exist) {
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  daemon_.start("models: [{path: m.pt, name: m}]");
  daemon_.wait_ready();
  ControlClient owner = connect_as(kStranger);
  owner.greet();
  const Received opened = owner.ask([](FlatBufferBuilder& builder) {
    return wire::CreateOpenSession(builder, builder.CreateString("m"));
  });
  const std::string id = opened.message().body_as_SessionOpened()->session_id()->str();
  ControlClient thief = connect_as(kOther);
  thief.greet();
  EXPECT_EQ(thief
                .ask([&](FlatBufferBuilder& builder) {
                  return wire::CreateOpenSession(builder, builder.CreateString("m"),
                                                 builder.CreateString(id));
                })
                .status()
                .code(),
            StatusCode::kNotFound);
  EXPECT_EQ(thief
                .ask([&](FlatBufferBuilder& builder) {
                  return wire::CreateCloseSession(builder, builder.CreateString(id));
                })
                .status()
                .code(),
            StatusCode::kNotFound);
}

TEST_F(SupervisorAccessTest, sessions_of_others_cannot_be_told_from_none) {
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  daemon_.start("models: [{path: m.pt}]\nsessions: {total: 2, per_user: 2}");
  daemon_.wait_ready();
  ControlClient owner = connect_as(kStranger);
  owner.greet();
  ControlClient other = connect_as(kOther);
  other.greet();
  const std::string id =
      owner.ask(open_session("m")).message().body_as_SessionOpened()->session_id()->str();
  const std::string none(32, '0');
  const std::string unknown = other.ask(open_session("m", none)).status().to_string();
  const auto expect_unknown = [&](ControlClient& client) {
    EXPECT_EQ(client.ask(open_session("m", id)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(open_session("x", id)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(close_session(id)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(close_session(id, true)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(operate(id, wire::SessionOperation::kReset)).status().to_string(),
              unknown);
    EXPECT_EQ(client.ask(fork_session(id)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(read_state(id, 0, 0, 1)).status().to_string(), unknown);
    EXPECT_EQ(client.ask(read_state(id, 9, 0, 1 << 30)).status().to_string(), unknown);
  };
  expect_unknown(other);
  ControlClient admin = daemon_.connect();
  expect_unknown(admin);
  // Only administrators see that there is one, and not its id.
  EXPECT_EQ(other.ask(list_sessions(true)).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(other.ask(list_sessions()).message().body_as_SessionList()->sessions()->size(), 0u);
  const Received list = admin.ask(list_sessions(true));
  const auto* sessions = list.message().body_as_SessionList()->sessions();
  ASSERT_EQ(sessions->size(), 1u);
  EXPECT_EQ(sessions->Get(0)->uid(), kStranger);
  EXPECT_EQ(sessions->Get(0)->session_id()->str(), "");
  // A limit of all users together does not tell how many others have.
  EXPECT_EQ(other.ask(open_session("m")).type(), wire::Body::SessionOpened);
  EXPECT_THAT(other.ask(open_session("m")).status().message(), HasSubstr("'sessions.total', 2"));
  EXPECT_EQ(owner.ask(close_session(id)).type(), wire::Body::Ok);
  expect_unknown(other);
  EXPECT_THAT(owner.ask(open_session("m", id)).status().message(), HasSubstr("was closed"));
}

TEST_F(SupervisorAccessTest, at_a_total_limit_anybodys_longest_idle_session_makes_room) {
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  daemon_.start(
      "models: [{path: m.pt}]\n"
      "sessions: {total: 3, per_user: 2, when_full: evict_longest_idle}");
  daemon_.wait_ready();
  ControlClient first = connect_as(kStranger);
  first.greet();
  ControlClient second = connect_as(kOther);
  second.greet();
  const auto open = [](ControlClient& client) {
    const Received answer = client.ask(open_session("m"));
    if (!answer.status().ok()) throw std::runtime_error(answer.status().to_string());
    return answer.message().body_as_SessionOpened()->session_id()->str();
  };
  const std::string oldest = open(first);
  const std::string used = open(first);
  const std::string others = open(second);
  EXPECT_EQ(first.ask(close_session(oldest, true)).status(), Status());
  EXPECT_EQ(second.ask(close_session(others, true)).status(), Status());
  // At one's own limit only one's own session goes, although the other's is idle, too.
  EXPECT_EQ(first.ask(open_session("m", used)).status(), Status());
  open(first);
  EXPECT_THAT(first.ask(open_session("m", oldest)).status().message(), HasSubstr("was evicted"));
  EXPECT_EQ(second.ask(open_session("m", others)).status(), Status());
  EXPECT_EQ(second.ask(close_session(others, true)).status(), Status());
  // All of the first's are open: at the total limit the second's own idle one goes; then none can.
  open(second);
  EXPECT_THAT(second.ask(open_session("m", others)).status().message(), HasSubstr("was evicted"));
  EXPECT_EQ(second.ask(open_session("m")).status().code(), StatusCode::kResourceExhausted);
  // What another user leaves idle makes room, and only its owner hears why.
  EXPECT_EQ(first.ask(close_session(used, true)).status(), Status());
  open(second);
  EXPECT_THAT(first.ask(open_session("m", used)).status().message(), HasSubstr("was evicted"));
  EXPECT_EQ(second.ask(open_session("m", used)).status().to_string(),
            "NOT_FOUND: this user has no session of that id");
}

TEST_F(SupervisorAccessTest, memory_for_state_is_limited_over_all_users) {
  daemon_.write_artifact("m.pt", "name: m\nstates: 1");
  daemon_.start(
      "models: [{path: m.pt}]\n"
      "sessions: {bytes_total: 8192, bytes_per_user: 8192}");
  daemon_.wait_ready();
  ControlClient first = connect_as(kStranger);
  first.greet();
  ControlClient second = connect_as(kOther);
  second.greet();
  const std::string id =
      first.ask(open_session("m")).message().body_as_SessionOpened()->session_id()->str();
  EXPECT_EQ(first.ask(operate(id, wire::SessionOperation::kCheckpoint)).status(), Status());
  const Status full = second.ask(open_session("m")).status();
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("'sessions.bytes_total', 8192"));
  EXPECT_EQ(first.ask(close_session(id)).status(), Status());
  EXPECT_EQ(second.ask(open_session("m")).type(), wire::Body::SessionOpened);
}

TEST_F(SupervisorAccessTest, state_of_scope_model_is_each_users_own_unless_it_is_shared) {
  daemon_.write_artifact("own.pt", "name: own\nstates: 1");
  daemon_.write_artifact("all.pt", "name: all\nstates: 1");
  daemon_.start(
      "models:\n  - {path: own.pt, state_scope: model}\n"
      "  - {path: all.pt, state_scope: model, share_across_users: true}\n");
  daemon_.wait_ready();
  ControlClient first = connect_as(kStranger);
  first.greet();
  ControlClient second = connect_as(kOther);
  second.greet();
  const auto handle_of = [](ControlClient& client, const std::string& model) {
    return client.ask(open_lane_request(model))
        .message()
        .body_as_LaneOpened()
        ->default_session_handle();
  };
  EXPECT_NE(handle_of(first, "own"), handle_of(second, "own"));
  EXPECT_EQ(handle_of(first, "all"), handle_of(second, "all"));
  // Users see their own; the id of what all share is for administrators.
  const auto count = [](ControlClient& client) {
    return client.ask(list_sessions()).message().body_as_SessionList()->sessions()->size();
  };
  EXPECT_EQ(count(first), 1u);
  ControlClient admin = daemon_.connect();
  const Received list = admin.ask(list_sessions());
  const auto* sessions = list.message().body_as_SessionList()->sessions();
  ASSERT_EQ(sessions->size(), 1u);
  EXPECT_EQ(sessions->Get(0)->model()->str(), "all");
  const std::string shared = sessions->Get(0)->session_id()->str();
  EXPECT_EQ(first.ask(operate(shared, wire::SessionOperation::kReset)).status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(admin.ask(operate(shared, wire::SessionOperation::kReset)).status(), Status());
}

}  // namespace
}  // namespace bucketd::testing
