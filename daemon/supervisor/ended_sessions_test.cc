#include "daemon/supervisor/ended_sessions.h"

#include <gtest/gtest.h>

namespace bucketd::supervisor {
namespace {

Status closed(int number) {
  return Status(StatusCode::kNotFound, "closed " + std::to_string(number));
}

TEST(EndedSessions, tell_their_owner_and_nobody_else) {
  EndedSessions ended;
  ended.add(1000, "a", closed(1));
  EXPECT_EQ(ended.reason(1000, "a").message(), "closed 1");
  EXPECT_EQ(ended.reason(1001, "a").message(), ended.reason(1000, "never").message());
  EXPECT_EQ(ended.reason(1001, "a").code(), StatusCode::kNotFound);
}

TEST(EndedSessions, of_one_user_do_not_push_out_those_of_others) {
  EndedSessions ended;
  ended.add(1, "other", closed(0));
  for (int i = 0; i < 5000; ++i) ended.add(2, std::to_string(i), closed(i));
  EXPECT_EQ(ended.reason(1, "other").message(), "closed 0");
  EXPECT_EQ(ended.reason(2, "4999").message(), "closed 4999");
  EXPECT_EQ(ended.reason(2, "4936").message(), "closed 4936");
  EXPECT_NE(ended.reason(2, "4935").message(), "closed 4935");
  EXPECT_EQ(ended.count(), 1 + EndedSessions::kMaxEndedPerUser);
}

TEST(EndedSessions, are_bounded_over_all_users) {
  EndedSessions ended;
  for (uid_t uid = 0; uid < 3000; ++uid) ended.add(uid, "s", closed(static_cast<int>(uid)));
  EXPECT_EQ(ended.count(), EndedSessions::kMaxEnded);
  EXPECT_EQ(ended.reason(2999, "s").message(), "closed 2999");
  EXPECT_NE(ended.reason(3000 - 1025, "s").message(), "closed 1975");
  EXPECT_EQ(ended.reason(3000 - 1024, "s").message(), "closed 1976");
}

}  // namespace
}  // namespace bucketd::supervisor
