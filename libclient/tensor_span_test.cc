#include "bucketd/tensor_span.h"

#include <gtest/gtest.h>

#include <numeric>

namespace bucketd {
namespace {

// A 2 x 3 part of a 4 x 5 tensor, at row 1 and column 1.
class TensorSpanTest : public ::testing::Test {
 protected:
  TensorSpanTest() : values_(20) { std::iota(values_.begin(), values_.end(), 0); }

  StridedSpan<std::int32_t> part() { return {values_.data() + 6, {2, 3}, {5, 1}}; }
  RawTensorSpan raw_part() {
    return {DType::kInt32, {2, 3}, reinterpret_cast<std::byte*>(values_.data() + 6), {20, 4}};
  }

  std::vector<std::int32_t> values_;
};

TEST_F(TensorSpanTest, reads_and_writes_elements_by_index) {
  EXPECT_EQ(part()(0, 0), 6);
  EXPECT_EQ(part()(1, 2), 13);
  part()(1, 2) = -1;
  EXPECT_EQ(values_[13], -1);
}

TEST_F(TensorSpanTest, copies_from_and_to_contiguous_elements) {
  EXPECT_EQ(part().to_vector(), (std::vector<std::int32_t>{6, 7, 8, 11, 12, 13}));
  part().copy_from(std::vector<std::int32_t>{1, 2, 3, 4, 5, 6});
  EXPECT_EQ(part().to_vector(), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values_[5], 5);
  EXPECT_EQ(values_[9], 9);
}

TEST_F(TensorSpanTest, knows_whether_it_is_contiguous) {
  EXPECT_FALSE(part().is_contiguous());
  EXPECT_TRUE((StridedSpan<std::int32_t>(values_.data(), {4, 5}, {5, 1})).is_contiguous());
  EXPECT_TRUE((StridedSpan<std::int32_t>(values_.data(), {1, 5}, {100, 1})).is_contiguous());
}

TEST_F(TensorSpanTest, raw_view_copies_the_same_bytes) {
  std::vector<std::int32_t> copied(6);
  raw_part().copy_to(std::as_writable_bytes(std::span(copied)));
  EXPECT_EQ(copied, (std::vector<std::int32_t>{6, 7, 8, 11, 12, 13}));
  const std::vector<std::int32_t> source{1, 2, 3, 4, 5, 6};
  raw_part().copy_from(std::as_bytes(std::span(source)));
  EXPECT_EQ(part().to_vector(), source);
  EXPECT_EQ(values_[9], 9);
}

TEST_F(TensorSpanTest, raw_view_copies_transposed_and_outer_strided_tensors) {
  const RawTensorSpan transposed{
      DType::kInt32, {5, 4}, reinterpret_cast<std::byte*>(values_.data()), {4, 20}};
  std::vector<std::int32_t> copied(20);
  transposed.copy_to(std::as_writable_bytes(std::span(copied)));
  EXPECT_EQ(copied[0], 0);
  EXPECT_EQ(copied[1], 5);
  EXPECT_EQ(copied[4], 1);
  EXPECT_EQ(copied[19], 19);
}

TEST_F(TensorSpanTest, scalars_and_empty_tensors_are_copied) {
  std::int32_t one = 5;
  const RawTensorSpan scalar{DType::kInt32, {}, reinterpret_cast<std::byte*>(&one), {}};
  const std::int32_t seven = 7;
  scalar.copy_from(std::as_bytes(std::span(&seven, 1)));
  EXPECT_EQ(one, 7);
  const RawTensorSpan empty{DType::kInt32, {3, 0, 2}, nullptr, {}};
  empty.copy_to({});
  empty.copy_from({});
}

}  // namespace
}  // namespace bucketd
