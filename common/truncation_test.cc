#include "common/truncation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bucketd {
namespace {

using ::testing::HasSubstr;

const StateSpec kLeftAligned{"k", DType::kFloat32, Shape{2, 16, 4}, 1, PadSide::kRight};
const StateSpec kRightAligned{"v", DType::kFloat32, Shape{8, 2}, 0, PadSide::kLeft};
const StateSpec kPlain{"n", DType::kInt64, Shape{1}, std::nullopt};

Status check(const std::vector<StateSpec>& states, std::int64_t length,
             std::int64_t current_length = -1) {
  return check_truncation("m", states, length, current_length);
}

TEST(Truncation, of_left_aligned_states_needs_only_a_length) {
  EXPECT_TRUE(check({kPlain, kLeftAligned}, 0).ok());
  EXPECT_TRUE(check({kPlain, kLeftAligned}, 16).ok());
  EXPECT_EQ(check({kLeftAligned}, -1).code(), StatusCode::kOutOfRange);
  const Status status = check({kLeftAligned}, 17);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_THAT(status.message(), HasSubstr("state 'k' has 16 along its sequence dim 1"));
}

TEST(Truncation, of_right_aligned_states_needs_the_current_length) {
  const Status status = check({kRightAligned}, 3);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("'current_length'"));
  EXPECT_TRUE(check({kRightAligned}, 3, 8).ok());
  EXPECT_EQ(check({kRightAligned}, 3, 9).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(check({kRightAligned}, 3, 2).code(), StatusCode::kOutOfRange);
}

TEST(Truncation, needs_a_state_that_names_its_sequence_dim) {
  EXPECT_EQ(check({kPlain}, 0).code(), StatusCode::kFailedPrecondition);
}

TEST(Truncation, is_bounded_by_the_shortest_state) {
  EXPECT_EQ(check({kLeftAligned, kRightAligned}, 9, 9).code(), StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace bucketd
