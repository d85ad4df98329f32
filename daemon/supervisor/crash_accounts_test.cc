#include "daemon/supervisor/crash_accounts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bucketd::supervisor {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

class CrashAccountsTest : public ::testing::Test {
 protected:
  CrashConfiguration limits_{.deaths_per_client = 3, .deaths_window = seconds(600)};
  CrashAccounts accounts_{limits_};
  Clock::time_point now_ = Clock::now();
};

TEST_F(CrashAccountsTest, refuses_from_the_limit_on_and_says_so) {
  for (int death = 0; death < 2; ++death) accounts_.charge(1000, "m", 1, now_);
  EXPECT_TRUE(accounts_.check(1000, "m", now_).ok());
  accounts_.charge(1000, "m", 1, now_ + seconds(5));
  const Status status = accounts_.check(1000, "m", now_ + seconds(10));
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("model 'm'"));
  EXPECT_THAT(status.message(), HasSubstr("3 times"));
  EXPECT_THAT(status.message(), HasSubstr("590 s"));
}

TEST_F(CrashAccountsTest, other_users_and_other_models_are_not_concerned) {
  for (int death = 0; death < 5; ++death) accounts_.charge(1000, "m", 1, now_);
  EXPECT_TRUE(accounts_.check(1001, "m", now_).ok());
  EXPECT_TRUE(accounts_.check(1000, "n", now_).ok());
}

TEST_F(CrashAccountsTest, deaths_leave_the_window) {
  for (int death = 0; death < 3; ++death) accounts_.charge(1000, "m", 1, now_ + seconds(death));
  EXPECT_FALSE(accounts_.check(1000, "m", now_ + seconds(599)).ok());
  EXPECT_TRUE(accounts_.check(1000, "m", now_ + seconds(600)).ok());
  EXPECT_TRUE(accounts_.check(1000, "m", now_ + seconds(2000)).ok());
  EXPECT_EQ(accounts_.size(), 0u);
}

TEST_F(CrashAccountsTest, shares_of_a_death_add_up) {
  for (int death = 0; death < 5; ++death) accounts_.charge(1000, "m", 2, now_);
  EXPECT_TRUE(accounts_.check(1000, "m", now_).ok());
  accounts_.charge(1000, "m", 2, now_);
  EXPECT_FALSE(accounts_.check(1000, "m", now_).ok());
  // A number of executors that divides nothing evenly must not lose a bit of a death.
  for (int part = 0; part < 3 * 61; ++part) accounts_.charge(1001, "m", 61, now_);
  EXPECT_FALSE(accounts_.check(1001, "m", now_).ok());
}

TEST_F(CrashAccountsTest, forgets_a_model_for_all_users) {
  for (int death = 0; death < 3; ++death) {
    accounts_.charge(1000, "m", 1, now_);
    accounts_.charge(1001, "m", 1, now_);
    accounts_.charge(1001, "n", 1, now_);
  }
  accounts_.forget("m");
  EXPECT_TRUE(accounts_.check(1000, "m", now_).ok());
  EXPECT_TRUE(accounts_.check(1001, "m", now_).ok());
  EXPECT_FALSE(accounts_.check(1001, "n", now_).ok());
}

}  // namespace
}  // namespace bucketd::supervisor
