#include "tools/bench/turn_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using testing::Each;
using testing::Gt;
using testing::HasSubstr;
using testing::SizeIs;

TEST(TurnProcess, gives_a_sample_for_each_timed_call) {
  auto handoff = TurnProcess::start("bucketd-bench-handoff", {"--mode", "futex"});
  ASSERT_TRUE(handoff) << handoff.error().to_string();
  std::vector<nanoseconds> samples;
  ASSERT_TRUE((*handoff)->take_turn(3, 10, samples).ok());
  ASSERT_TRUE((*handoff)->take_turn(0, 5, samples).ok());
  EXPECT_THAT(samples, SizeIs(15));
  EXPECT_THAT(samples, Each(Gt(nanoseconds(0))));
  EXPECT_GT((*handoff)->client_cpu(), nanoseconds(0));
}

TEST(TurnProcess, names_a_program_that_was_not_built) {
  const auto missing = TurnProcess::start("bucketd-bench-nothing", {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("bucketd-bench-nothing"));
}

TEST(TurnProcess, reports_a_program_that_ends_at_once) {
  const auto wrong = TurnProcess::start("bucketd-bench-handoff", {"--no-such-option"});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace bucketd
