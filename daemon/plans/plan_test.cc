#include "daemon/plans/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/plans/testing/pad_model.h"

namespace bucketd {
namespace {

using ::testing::HasSubstr;
using testing::pad_model;

std::vector<TensorSignature> one(const Shape& shape, DType dtype = DType::kInt64) {
  return {{dtype, shape}};
}

TEST(MakePlan, takes_the_first_bucket_that_is_large_enough) {
  const ModelDescription model = pad_model("m", {128, 512}, 3);
  Plan plan;
  for (const auto& [size, bucket] : std::vector<std::pair<std::int64_t, std::uint32_t>>{
           {1, 0}, {127, 0}, {128, 0}, {129, 1}, {512, 1}}) {
    ASSERT_TRUE(make_plan(model, one({1, size}), plan).ok());
    EXPECT_EQ(plan.bucket, bucket) << "size " << size;
    ASSERT_EQ(plan.inputs.size(), 1u);
    EXPECT_EQ(plan.inputs[0].padded, model.buckets[bucket].inputs[0]);
    EXPECT_EQ(plan.inputs[0].pad_before[1], 0);
    EXPECT_EQ(plan.inputs[0].fill_bits, 3u);
    EXPECT_EQ(plan.inputs[0].padded_bytes, bucket == 0 ? 1024u : 4096u);
  }
}

TEST(MakePlan, pads_before_the_data_on_the_left_side) {
  Plan plan;
  ASSERT_TRUE(make_plan(pad_model("m", {8}, 0, PadSide::kLeft), one({1, 5}), plan).ok());
  EXPECT_EQ(plan.inputs[0].pad_before[0], 0);
  EXPECT_EQ(plan.inputs[0].pad_before[1], 3);
}

TEST(MakePlan, says_which_size_is_above_the_largest_bucket) {
  Plan plan;
  const Status status = make_plan(pad_model("bert", {128, 512}), one({1, 513}), plan);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(status.message(),
            "model 'bert', input 0 'x', dimension 1: size 513 is above the largest bucket's 512");
}

TEST(MakePlan, refuses_a_size_that_the_kernel_does_not_pad) {
  Plan plan;
  const Status status =
      make_plan(pad_model("m", {8}, 0, PadSide::kRight, DType::kInt64, 4), one({3, 8}), plan);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("dimension 0: size 3 is no bucket's size"));
}

TEST(MakePlan, refuses_sizes_that_fit_no_bucket_together) {
  ModelDescription model = pad_model("m", {8});
  model.buckets[0].inputs = {Shape{2, 8}};
  model.buckets.push_back(model.buckets[0]);
  model.buckets[1].inputs = {Shape{8, 2}};
  model.pad.dims = {{0, 1}};
  Plan plan;
  const Status status = make_plan(model, one({8, 8}), plan);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_THAT(status.message(), HasSubstr("none of its 2 buckets takes inputs of shapes [8, 8]"));
}

TEST(MakePlan, refuses_another_dtype_or_rank_even_when_the_model_accepts_anything) {
  const ModelDescription model = pad_model("m", {8});
  Plan plan;
  EXPECT_THAT(make_plan(model, one({1, 8}, DType::kInt32), plan).message(),
              HasSubstr("dtype int32 where int64 is expected"));
  EXPECT_THAT(make_plan(model, one({8}), plan).message(),
              HasSubstr("rank 1 where rank 2 is expected"));
}

}  // namespace
}  // namespace bucketd
