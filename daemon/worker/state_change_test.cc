#include "daemon/worker/state_change.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "daemon/worker/testing/fake_backend.h"

namespace bucketd {
namespace {

using ::testing::ElementsAre;
using testing::FakeModel;
using ::testing::HasSubstr;
using testing::pad_model;

// A model whose only state has bytes of this shape; its initial value is 100, 0, 0, ...
ModelDescription model_with_state(const Shape& shape, std::optional<std::uint32_t> sequence_dim,
                                  PadSide align = PadSide::kRight) {
  ModelDescription model = pad_model("kv", {4});
  model.states = {{"cache", DType::kUint8, shape, sequence_dim, align}};
  model.buckets[0].states = {shape};
  return model;
}

// 1, 2, 3, ... after the change.
std::vector<int> changed(const ModelDescription& description, const StateChange& change) {
  FakeModel model(description);
  const StateSpec& state = description.states[0];
  std::vector<std::uint8_t> memory(*state.shape.byte_size(state.dtype));
  std::iota(memory.begin(), memory.end(), std::uint8_t{1});
  const TensorView view{state.dtype, state.shape, reinterpret_cast<std::byte*>(memory.data())};
  EXPECT_TRUE(check_change(description, change).ok());
  EXPECT_TRUE(make_change(model, {&view, 1}, change).ok());
  return {memory.begin(), memory.end()};
}

StateChange truncation(std::int64_t length, std::int64_t current_length = -1) {
  return {.kind = StateChange::Kind::kTruncate, .length = length, .current_length = current_length};
}

TEST(StateChange, truncates_to_the_first_positions_where_they_lie_at_the_start) {
  const ModelDescription model = model_with_state({6}, 0);
  EXPECT_THAT(changed(model, truncation(6)), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(changed(model, truncation(2)), ElementsAre(1, 2, 0, 0, 0, 0));
  EXPECT_THAT(changed(model, truncation(0)), ElementsAre(100, 0, 0, 0, 0, 0));
}

TEST(StateChange, truncates_to_the_first_of_those_in_use_where_they_lie_at_the_end) {
  const ModelDescription model = model_with_state({6}, 0, PadSide::kLeft);
  // In use are 3 to 6: the first two of them move to the end.
  EXPECT_THAT(changed(model, truncation(2, 4)), ElementsAre(100, 0, 0, 0, 3, 4));
  EXPECT_THAT(changed(model, truncation(4, 4)), ElementsAre(100, 0, 3, 4, 5, 6));
  EXPECT_THAT(changed(model, truncation(0, 4)), ElementsAre(100, 0, 0, 0, 0, 0));
  EXPECT_THAT(changed(model, truncation(6, 6)), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(changed(model, truncation(5, 6)), ElementsAre(100, 1, 2, 3, 4, 5));
}

TEST(StateChange, truncates_along_a_dimension_between_others) {
  const Shape shape{2, 3, 2};
  EXPECT_THAT(changed(model_with_state(shape, 1), truncation(1)),
              ElementsAre(1, 2, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0));
  EXPECT_THAT(changed(model_with_state(shape, 1, PadSide::kLeft), truncation(1, 2)),
              ElementsAre(100, 0, 0, 0, 3, 4, 0, 0, 0, 0, 9, 10));
}

TEST(StateChange, leaves_states_alone_that_have_no_sequence) {
  ModelDescription description = model_with_state({2}, 0);
  description.states.push_back({"other", DType::kUint8, Shape{2}, std::nullopt});
  FakeModel model(description);
  std::vector<std::byte> first(2, std::byte{7});
  std::vector<std::byte> other(2, std::byte{8});
  const TensorView views[] = {{DType::kUint8, {2}, first.data()},
                              {DType::kUint8, {2}, other.data()}};
  ASSERT_TRUE(make_change(model, views, truncation(0)).ok());
  EXPECT_THAT(first, ElementsAre(std::byte{100}, std::byte{0}));
  EXPECT_THAT(other, ElementsAre(std::byte{8}, std::byte{8}));
}

TEST(StateChange, resets_and_copies_whole_states) {
  const ModelDescription model = model_with_state({3}, std::nullopt);
  EXPECT_THAT(changed(model, {.kind = StateChange::Kind::kReset}), ElementsAre(100, 0, 0));
  std::vector<std::byte> place(3, std::byte{9});
  EXPECT_THAT(changed(model, {.kind = StateChange::Kind::kCopyIn, .places = {place.data()}}),
              ElementsAre(9, 9, 9));
  EXPECT_THAT(changed(model, {.kind = StateChange::Kind::kCopyOut, .places = {place.data()}}),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(place, ElementsAre(std::byte{1}, std::byte{2}, std::byte{3}));
}

TEST(StateChange, refuses_truncations_that_make_no_sense) {
  const ModelDescription none = model_with_state({6}, std::nullopt);
  EXPECT_EQ(check_change(none, truncation(1)).code(), StatusCode::kFailedPrecondition);
  const Status status = check_change(model_with_state({6}, 0), truncation(7));
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_THAT(status.message(), HasSubstr("model 'kv'"));
  // The same rules as in the supervisor: truncation_test.cc has the others.
  const ModelDescription right = model_with_state({6}, 0, PadSide::kLeft);
  EXPECT_EQ(check_change(right, truncation(2)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(check_change(right, truncation(3, 7)).code(), StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace bucketd
