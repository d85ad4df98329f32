// State through the backend's interface: slicing, aliases, in-place updates.
#include "daemon/backends/torchscript/testing/loaded_model.h"
// Comes first so that the header is seen to be self-contained.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "daemon/backends/torchscript/kept_views.h"

namespace bucketd::torchscript {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::LoadedModel;
using testing::make_backend;
using testing::Tensor;

std::vector<Tensor> one(Tensor tensor) {
  std::vector<Tensor> inputs;
  inputs.push_back(std::move(tensor));
  return inputs;
}

TEST(StateViews, initial_values_are_the_artifacts) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "guide_states");
  ASSERT_TRUE(model);
  const std::vector<float> first = model.state(0).values<float>();
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i], static_cast<float>(i));
  EXPECT_THAT(model.state(1).values<float>(), Each(1.0f));
}

// States [1, 512]: bucket 0 gets their last 128 elements, bucket 1 the whole. State 0 grows by x
// (aliased output), state 1 by 2 x (in place).
TEST(StateViews, the_guides_preprocessor_slices_from_the_tail_and_updates_stay) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "guide_states");
  ASSERT_TRUE(model);
  std::vector<float> first = model.state(0).values<float>();
  std::vector<float> second = model.state(1).values<float>();
  for (const std::int64_t length : {100, 300, 128, 512, 1}) {
    const std::size_t bucket = length <= 128 ? 0 : 1;
    const std::size_t tail = bucket == 0 ? 384 : 0;
    auto reply = model.run(one(Tensor::counting<float>({1, length}, 1)));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    ASSERT_EQ(reply->bucket, bucket);
    EXPECT_EQ(reply->outputs[0].values<float>(),
              std::vector<float>(first.begin() + static_cast<std::ptrdiff_t>(tail), first.end()));
    EXPECT_EQ(reply->outputs[1].values<float>(),
              std::vector<float>(second.begin() + static_cast<std::ptrdiff_t>(tail), second.end()));
    for (std::size_t i = 0; i < static_cast<std::size_t>(length); ++i) {
      first[tail + i] += static_cast<float>(i + 1);
      second[tail + i] += 2 * static_cast<float>(i + 1);
    }
    EXPECT_EQ(model.state(0).values<float>(), first) << length;
    EXPECT_EQ(model.state(1).values<float>(), second) << length;
  }
}

TEST(StateViews, two_states_that_become_each_other_are_swapped) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "swap_states");
  ASSERT_TRUE(model);
  for (int round = 0; round < 3; ++round) {
    EXPECT_THAT(model.state(0).values<float>(), Each(round % 2 == 0 ? 1.0f : 2.0f)) << round;
    EXPECT_THAT(model.state(1).values<float>(), Each(round % 2 == 0 ? 2.0f : 1.0f)) << round;
    auto reply = model.run(one(Tensor::of<float>({1, 4}, {1, 2, 3, 4})));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  }
}

TEST(StateViews, an_output_that_is_the_state_shows_it_before_the_update) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "output_is_state");
  ASSERT_TRUE(model);
  auto reply = model.run(one(Tensor::of<float>({1, 4}, {1, 2, 3, 4})));
  ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  EXPECT_THAT(reply->outputs[0].values<float>(), Each(0.0f));
  EXPECT_THAT(model.state(0).values<float>(), ElementsAre(1, 2, 3, 4));
}

TEST(StateViews, a_preprocessor_that_reads_state_runs_every_time) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "state_tells_where");
  ASSERT_TRUE(model);
  const auto set_start = [&model](float start) {
    std::memcpy(model.state(0).data(), &start, sizeof(start));
  };
  for (const int start : {0, 7, 12}) {
    set_start(static_cast<float>(start));
    const auto reply = model.run(one(Tensor::of<float>({4}, {1, 1, 1, 1})));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  }
  EXPECT_THAT(model.state(1).values<float>(),
              ElementsAre(1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1));
  // Beyond the state's end: this request fails, the state stays.
  set_start(13);
  const auto beyond = model.run(one(Tensor::of<float>({4}, {1, 1, 1, 1})));
  ASSERT_FALSE(beyond.has_value());
  EXPECT_EQ(beyond.error().code(), StatusCode::kInternal);
  EXPECT_THAT(beyond.error().message(), ::testing::HasSubstr("the state preprocessor fails"));
  EXPECT_EQ(model.state(1).values<float>()[13], 1.0f);
}

TEST(StateViews, a_copy_of_a_state_that_is_only_read_is_fresh_every_time) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "copied_state_read");
  ASSERT_TRUE(model);
  for (const float value : {5.0f, 9.0f}) {
    const std::vector<float> values(4, value);
    std::memcpy(model.state(0).data(), values.data(), model.state(0).size_bytes());
    auto reply = model.run(one(Tensor::of<float>({1, 4}, {1, 2, 3, 4})));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    EXPECT_THAT(reply->outputs[0].values<float>(),
                ElementsAre(value + 1, value + 2, value + 3, value + 4));
  }
}

TEST(StateViews, a_counter_counts) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/counter");
  ASSERT_TRUE(model);
  for (int round = 1; round <= 3; ++round) {
    auto reply = model.run(one(Tensor::of<float>({1, 8}, std::vector<float>(8, 2))));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    EXPECT_THAT(reply->outputs[0].values<float>(), Each(2.0f * static_cast<float>(round)));
    EXPECT_EQ(reply->outputs[0].bytes(), model.state(0).bytes());
  }
}

// --- what is copied ---

// A generation of 512 steps that begins in the bucket of 128 and ends in that of 512.
TEST(StateViews, views_lie_in_the_sessions_memory_and_nothing_is_copied) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "grows_in_place");
  ASSERT_TRUE(model);
  const std::byte* first = model.state(0).data();
  for (std::int64_t length = 1; length <= 512; ++length) {
    auto reply = model.run(one(Tensor::counting<float>({4, length}, 1)));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    ASSERT_EQ(reply->bucket, length <= 128 ? 0u : 1u);
    const auto kept = kept_view_addresses(model.bound_states(), reply->bucket);
    // The last 128 columns of 512, or the whole.
    const std::size_t offset = reply->bucket == 0 ? 384 * sizeof(float) : 0;
    ASSERT_THAT(kept, ElementsAre(first + offset)) << length;
  }
  EXPECT_EQ(model.traffic().bytes_copied, 0u);
  EXPECT_EQ(model.traffic().bytes_written_back, 0u);
  // Element (r, c) of an input is r * length + c + 1. Column 0 of the whole gets it from lengths
  // 129 to 512; column 384 from those to 128, whose column 0 it is, and from those above 384.
  const std::vector<float> values = model.state(0).values<float>();
  EXPECT_EQ(values[0], 384.0f);
  EXPECT_EQ(values[384], 128.0f + 128 * 385);
  EXPECT_EQ(values[3 * 512 + 384], 3 * 8256.0f + 128 + 3 * 57408.0f + 128 * 385);
}

TEST(StateViews, a_functional_update_is_written_back_once) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "guide_states");
  ASSERT_TRUE(model);
  std::uint64_t expected = 0;
  for (const std::int64_t length : {100, 300, 128}) {
    ASSERT_TRUE(model.run(one(Tensor::counting<float>({1, length}, 1))).has_value());
    expected += (length <= 128 ? 128 : 512) * sizeof(float);  // state 0; state 1 is in place
    EXPECT_EQ(model.traffic().bytes_written_back, expected) << length;
  }
  EXPECT_EQ(model.traffic().bytes_copied, 0u);
}

TEST(StateViews, copies_of_read_only_states_are_counted) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "copies_one");
  ASSERT_TRUE(model);
  for (std::uint64_t round = 1; round <= 3; ++round) {
    auto reply = model.run(one(Tensor::of<float>({4}, {1, 1, 1, 1})));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    EXPECT_THAT(reply->outputs[0].values<float>(), ElementsAre(1, 5, 9, 13));
    EXPECT_EQ(model.traffic().bytes_copied, round * 4 * sizeof(float));
    EXPECT_EQ(model.traffic().bytes_written_back, round * 4 * sizeof(float));
    EXPECT_THAT(kept_view_addresses(model.bound_states(), 0), ::testing::IsEmpty());
  }
  EXPECT_THAT(model.state(1).values<float>(), Each(3.0f));
}

TEST(StateViews, a_bucket_that_changes_its_views_sizes_gets_the_right_ones_again) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "reshapes_its_state");
  ASSERT_TRUE(model);
  for (int round = 1; round <= 3; ++round) {
    auto reply = model.run(one(Tensor::of<float>({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8})));
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    const auto n = static_cast<float>(round);
    EXPECT_THAT(model.state(0).values<float>(),
                ElementsAre(n, 5 * n, 2 * n, 6 * n, 3 * n, 7 * n, 4 * n, 8 * n));
  }
  EXPECT_EQ(model.traffic().bytes_copied, 0u);
}

TEST(StateViews, the_description_says_how_a_bucket_gets_each_state_and_why) {
  const auto backend = make_backend();
  const auto views = [&](const char* name, std::size_t bucket) {
    LoadedModel model(*backend, name);
    return model ? model->description().buckets[bucket].state_views : std::vector<StateViewSpec>();
  };
  using Kind = StateViewKind;
  const StateViewSpec tail{Kind::kContiguous, "a slice of dimension 1, in one piece"};
  const StateViewSpec whole{Kind::kContiguous, "the whole state"};
  EXPECT_THAT(views("guide_states", 0), ElementsAre(tail, tail));
  EXPECT_THAT(views("guide_states", 1), ElementsAre(whole, whole));
  EXPECT_THAT(views("swap_states", 0), ElementsAre(whole, whole));
  EXPECT_THAT(
      views("grows_in_place", 0),
      ElementsAre(StateViewSpec{Kind::kStrided,
                                "a slice of dimension 1, rows of 512 bytes are 2048 bytes apart"}));
  EXPECT_THAT(views("grows_in_place", 1), ElementsAre(whole));
  EXPECT_THAT(
      views("index_by_element", 0),
      ElementsAre(StateViewSpec{Kind::kContiguous, "a slice of dimension 0, in one piece"}));
  const std::string reads = "; the preprocessor runs for every request, since it reads values (";
  EXPECT_THAT(views("state_tells_where", 0),
              ElementsAre(StateViewSpec{Kind::kContiguous, whole.reason + reads + "aten::Int)"},
                          StateViewSpec{Kind::kContiguous, "a slice of dimension 0, in one piece" +
                                                               reads + "aten::Int)"}));
  const auto copies = views("copies_one", 0);
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(copies[0].kind, Kind::kCopy);
  EXPECT_EQ(copies[0].reason,
            "the preprocessor gives a copy (aten::index_select), which is made for every request");
  EXPECT_EQ(copies[1].kind, Kind::kContiguous);
  EXPECT_THAT(views("suite/multi", 0), ::testing::IsEmpty());
}

}  // namespace
}  // namespace bucketd::torchscript
