#include "libclient/request_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/channel_layout.h"

namespace bucketd::internal {
namespace {

TEST(RequestLayoutTest, raw_inputs_lie_contiguous_at_aligned_offsets) {
  const std::vector<TensorSignature> inputs{
      {DType::kInt64, {2, 3}}, {DType::kBool, {5}}, {DType::kFloat32, {}}};
  std::vector<InputPlacement> placements;
  const std::optional<std::uint64_t> used = place_raw(inputs, placements);
  ASSERT_TRUE(used);
  ASSERT_EQ(placements.size(), 3u);
  EXPECT_EQ(placements[0].offset, 320u);  // 3 descriptors of 88 bytes, rounded up to 64
  EXPECT_EQ(placements[0].byte_size, 48u);
  EXPECT_EQ(placements[0].byte_strides[0], 24);
  EXPECT_EQ(placements[0].byte_strides[1], 8);
  EXPECT_EQ(placements[1].offset, 384u);
  EXPECT_EQ(placements[1].byte_size, 5u);
  EXPECT_EQ(placements[2].offset, 448u);
  EXPECT_EQ(*used, 452u);
}

TEST(RequestLayoutTest, sizes_that_overflow_are_refused) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 60;
  std::vector<InputPlacement> placements;
  EXPECT_FALSE(place_raw(std::vector<TensorSignature>{{DType::kInt64, {kHuge}}}, placements));
  const std::vector<TensorSignature> sum(3, {DType::kInt8, {std::int64_t{1} << 62}});
  EXPECT_TRUE(place_raw(sum, placements));
  const std::vector<TensorSignature> more(5, {DType::kInt8, {std::int64_t{1} << 62}});
  EXPECT_FALSE(place_raw(more, placements));
}

TEST(RequestLayoutTest, empty_tensor_takes_no_bytes_and_its_strides_do_not_overflow) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  std::vector<InputPlacement> placements;
  const std::optional<std::uint64_t> used =
      place_raw(std::vector<TensorSignature>{{DType::kInt64, {0, kHuge, kHuge}}}, placements);
  ASSERT_TRUE(used);
  EXPECT_EQ(placements[0].byte_size, 0u);
}

// Lays one input of `shape` out in `padded`, fills the caller's part with 1, 2, 3, ... and the
// padding with `fill`; gives the padded tensor.
template <typename T>
std::vector<T> lay_out(DType dtype, const Shape& shape, const Shape& padded,
                       const std::array<std::int64_t, kMaxRank>& before, std::uint64_t fill) {
  Plan plan;
  plan.inputs = {{padded, before, fill}};
  std::vector<InputPlacement> placements;
  const std::vector<TensorSignature> inputs{{dtype, shape}};
  const std::uint64_t used = place_padded(inputs, plan, placements).value();
  // 0xEE shows what nobody wrote.
  std::vector<std::byte> slot(used + 64, std::byte{0xEE});
  fill_padding(placements[0], plan.inputs[0], slot.data());
  std::vector<T> values(*shape.element_count());
  std::iota(values.begin(), values.end(), T{1});
  placed_view(placements[0], slot.data()).copy_from(std::as_bytes(std::span(values)));
  EXPECT_TRUE(std::all_of(slot.begin() + static_cast<std::ptrdiff_t>(used), slot.end(),
                          [](std::byte b) { return b == std::byte{0xEE}; }))
      << "wrote behind the tensor";
  const auto* data = reinterpret_cast<const T*>(slot.data() + placements[0].offset);
  return {data, data + *padded.element_count()};
}

TEST(RequestLayoutTest, padding_surrounds_the_callers_part_on_both_sides_of_both_dims) {
  EXPECT_EQ((lay_out<std::int32_t>(DType::kInt32, {2, 2}, {4, 5}, {1, 2}, 9)),
            (std::vector<std::int32_t>{9, 9, 9, 9, 9,  //
                                       9, 9, 1, 2, 9,  //
                                       9, 9, 3, 4, 9,  //
                                       9, 9, 9, 9, 9}));
}

TEST(RequestLayoutTest, padding_of_inner_dims_repeats_for_every_outer_row) {
  EXPECT_EQ((lay_out<std::uint8_t>(DType::kUint8, {2, 1, 2}, {2, 2, 3}, {0, 1, 0}, 7)),
            (std::vector<std::uint8_t>{7, 7, 7, 1, 2, 7, 7, 7, 7, 3, 4, 7}));
}

TEST(RequestLayoutTest, exact_shape_has_no_padding) {
  EXPECT_EQ((lay_out<std::int16_t>(DType::kInt16, {2, 2}, {2, 2}, {0, 0}, 7)),
            (std::vector<std::int16_t>{1, 2, 3, 4}));
}

TEST(RequestLayoutTest, empty_input_is_all_padding) {
  EXPECT_EQ((lay_out<std::int64_t>(DType::kInt64, {1, 0}, {1, 3}, {0, 0}, 5)),
            (std::vector<std::int64_t>{5, 5, 5}));
}

TEST(RequestLayoutTest, scalar_has_no_padding) {
  EXPECT_EQ((lay_out<std::int64_t>(DType::kInt64, {}, {}, {}, 5)), (std::vector<std::int64_t>{1}));
}

}  // namespace
}  // namespace bucketd::internal
