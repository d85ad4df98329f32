// Sessions of several users, with a real worker: what one left is not there for another, and nobody
// learns of another's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "bucketd/session.h"
#include "tests/state/tape.h"
#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kFirst = 64001;
constexpr uid_t kSecond = 64002;

class SessionPrivacy : public ::testing::TestWithParam<Transport> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to connect as other users";
  }
  // `others`: to be merged into the configuration.
  static nlohmann::json open_to_all(const nlohmann::json& others = nlohmann::json::object()) {
    nlohmann::json config = TestDaemon::serving({"tape_head", "tape_tail"});
    config["socket"]["mode"] = "0666";
    config.update(others);
    return config;
  }
  // The daemon sees who connects; what is connected stays so.
  static Client connect_as(uid_t uid, TestDaemon& daemon) {
    std::filesystem::permissions(daemon.directory(), std::filesystem::perms(0755));
    if (::seteuid(uid) != 0) throw std::runtime_error("seteuid");
    Result<Client> client =
        Client::connect({.socket_path = daemon.socket_path(), .transport = GetParam()});
    if (::seteuid(0) != 0) std::abort();
    if (!client) throw std::runtime_error(client.error().to_string());
    return *client;
  }
};

Result<std::int64_t> play(Session& session, const std::vector<std::int64_t>& x) {
  Result<Request> request = session.new_request({Shape({1, static_cast<std::int64_t>(x.size())})});
  if (!request) return error(request.error());
  request->input<std::int64_t>(0).copy_from(x);
  Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());
  return reply->output<std::int64_t>(0).to_vector().at(0);
}

TEST_P(SessionPrivacy, no_byte_of_a_former_state_is_in_a_new_session) {
  TestDaemon daemon(open_to_all());
  ASSERT_TRUE(daemon.start());
  Client first = connect_as(kFirst, daemon);
  Client second = connect_as(kSecond, daemon);
  Model firsts = *first.open("tape_head");
  Model seconds = *second.open("tape_tail");
  Tape written(/*is_tail=*/false);
  const Tape fresh(/*is_tail=*/true);
  for (int i = 0; i < 30; ++i) {
    Session secret = *firsts.open_session();
    written.reset();
    // All 16 positions of both states.
    const std::vector<std::int64_t> pattern(8, 0x5EC2E7 + i);
    EXPECT_EQ(play(secret, pattern), written.run(pattern));
    EXPECT_EQ(secret.checkpoint(), Status());
    for (std::size_t state = 0; state < 2; ++state) {
      EXPECT_EQ(*secret.read_state(state), written.bytes(state));
    }
    if (i % 2 == 0) {
      EXPECT_EQ(secret.close(), Status());
    } else {
      const std::string id = secret.id();
      EXPECT_EQ(secret.keep(), Status());
      EXPECT_EQ(first.close_session(id), Status());
    }
    Session session = *seconds.open_session();
    for (std::size_t state = 0; state < 2; ++state) {
      EXPECT_EQ(*session.read_state(state), fresh.bytes(state));
    }
    EXPECT_EQ(session.restore().code(), StatusCode::kFailedPrecondition);
  }
  daemon.expect_clean_stop();
}

TEST_P(SessionPrivacy, an_id_of_another_user_is_an_unknown_one) {
  TestDaemon daemon(open_to_all({{"sessions", {{"idle_timeout_ms", 300}}}}));
  ASSERT_TRUE(daemon.start());
  Client first = connect_as(kFirst, daemon);
  Client second = connect_as(kSecond, daemon);
  Model firsts = *first.open("tape_head");
  Model seconds = *second.open("tape_head");
  Session session = *firsts.open_session();
  EXPECT_EQ(play(session, {1, 2, 3}), Tape(false).run({1, 2, 3}));
  Session closed = *firsts.open_session();
  const std::string closed_id = closed.id();
  EXPECT_EQ(closed.close(), Status());
  Session expired = *firsts.open_session();
  const std::string expired_id = expired.id();
  EXPECT_EQ(expired.keep(), Status());
  ASSERT_TRUE(eventually([&] { return first.sessions()->size() == 1; }));

  // Its owner hears what became of each.
  EXPECT_EQ(firsts.resume_session(closed_id).error().code(), StatusCode::kNotFound);
  EXPECT_THAT(firsts.resume_session(closed_id).error().message(), HasSubstr("closed"));
  EXPECT_EQ(firsts.resume_session(expired_id).error().code(), StatusCode::kNotFound);
  EXPECT_THAT(firsts.resume_session(expired_id).error().message(), HasSubstr("without use"));
  EXPECT_EQ(first.open("tape_tail")->resume_session(session.id()).error().code(),
            StatusCode::kInvalidArgument);

  // To the other user none of them differs from one that never was.
  const Status unknown = seconds.resume_session(std::string(32, '0')).error();
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound) << unknown.to_string();
  for (const std::string& id : {session.id(), closed_id, expired_id}) {
    EXPECT_EQ(seconds.resume_session(id).error(), unknown);
    EXPECT_EQ(second.open("tape_tail")->resume_session(id).error(), unknown);
    EXPECT_EQ(second.close_session(id), unknown);
    EXPECT_EQ(second.reset_session(id), unknown);
    EXPECT_EQ(second.restore_session(id), unknown);
  }
  EXPECT_TRUE(second.sessions()->empty());
  EXPECT_EQ(second.sessions(/*all_users=*/true).error().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(first.sessions()->at(0).requests, 1u);
  EXPECT_TRUE(play(session, {4})) << "the other user's attempts did it harm";
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, SessionPrivacy,
                         ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace
}  // namespace bucketd::test
