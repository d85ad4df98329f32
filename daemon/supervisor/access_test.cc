#include "daemon/supervisor/access.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/message_socket.h"

namespace bucketd::supervisor {
namespace {

constexpr uid_t kDaemon = 900;

PeerCredentials peer(uid_t uid, gid_t gid = 5000, std::vector<gid_t> groups = {}) {
  return {uid, gid, 1, std::move(groups)};
}

TEST(AccessPolicy, without_lists_everybody_may_use_and_nobody_else_is_admin) {
  const AccessPolicy policy({}, kDaemon);
  EXPECT_TRUE(policy.may_use(peer(1000)));
  EXPECT_FALSE(policy.is_admin(peer(1000)));
  EXPECT_TRUE(policy.is_admin(peer(0)));
  EXPECT_TRUE(policy.is_admin(peer(kDaemon)));
}

TEST(AccessPolicy, lists_restrict_use_to_users_groups_and_admins) {
  const AccessPolicy policy({.users = {1000}, .groups = {77}, .admin_users = {1001}}, kDaemon);
  EXPECT_TRUE(policy.may_use(peer(1000)));
  EXPECT_TRUE(policy.may_use(peer(1002, 77)));
  EXPECT_TRUE(policy.may_use(peer(1002, 1, {5, 77})));
  EXPECT_TRUE(policy.may_use(peer(1001)));
  EXPECT_TRUE(policy.may_use(peer(0)));
  EXPECT_FALSE(policy.may_use(peer(1002)));
}

TEST(AccessPolicy, admin_groups_count_supplementary_ones_too) {
  const AccessPolicy policy({.admin_groups = {88}}, kDaemon);
  EXPECT_TRUE(policy.is_admin(peer(1000, 88)));
  EXPECT_TRUE(policy.is_admin(peer(1000, 1, {88})));
  EXPECT_FALSE(policy.is_admin(peer(1000, 1, {89})));
}

TEST(PeerCredentials, are_those_of_the_process_at_the_other_end) {
  const Result<SocketPair> pair = make_socket_pair(SOCK_SEQPACKET);
  ASSERT_TRUE(pair.has_value());
  const Result<PeerCredentials> credentials = peer_credentials(pair->first.get());
  ASSERT_TRUE(credentials.has_value()) << credentials.error().to_string();
  EXPECT_EQ(credentials->uid, ::geteuid());
  EXPECT_EQ(credentials->gid, ::getegid());
  EXPECT_EQ(credentials->pid, ::getpid());
  std::vector<gid_t> groups(static_cast<std::size_t>(::getgroups(0, nullptr)));
  ::getgroups(static_cast<int>(groups.size()), groups.data());
  EXPECT_EQ(credentials->groups, groups);
}

}  // namespace
}  // namespace bucketd::supervisor
