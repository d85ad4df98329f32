#include "bucketd/shape.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

namespace bucketd {
namespace {

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

TEST(ShapeTest, a_scalar_has_one_element) {
  EXPECT_EQ(Shape().element_count(), 1u);
  EXPECT_EQ(Shape().byte_size(DType::kInt64), 8u);
  EXPECT_EQ(Shape().to_string(), "[]");
}

TEST(ShapeTest, a_zero_size_gives_no_elements_even_beside_sizes_that_would_overflow) {
  EXPECT_EQ(Shape({kHuge, kHuge, 0}).element_count(), 0u);
  EXPECT_EQ(Shape({0, 3}).byte_size(DType::kFloat64), 0u);
}

TEST(ShapeTest, an_overflowing_product_is_reported) {
  EXPECT_EQ(Shape({kHuge, 2}).element_count(), std::nullopt);
  EXPECT_EQ(Shape({std::int64_t{1} << 32, std::int64_t{1} << 32}).element_count(), std::nullopt);
  EXPECT_EQ(Shape({kHuge}).element_count(), static_cast<std::uint64_t>(kHuge));
  EXPECT_EQ(Shape({kHuge}).byte_size(DType::kInt8), static_cast<std::uint64_t>(kHuge));
  EXPECT_EQ(Shape({kHuge}).byte_size(DType::kInt16), std::nullopt);
}

TEST(ShapeTest, sizes_from_outside_are_checked) {
  EXPECT_FALSE(Shape::from(std::vector<std::int64_t>(kMaxRank + 1, 1)));
  EXPECT_FALSE(Shape::from(std::array<std::int64_t, 2>{3, -1}));
  const std::optional<Shape> shape = Shape::from(std::array<std::int64_t, 2>{3, 0});
  ASSERT_TRUE(shape);
  EXPECT_EQ(*shape, Shape({3, 0}));
}

TEST(ShapeTest, shapes_of_different_rank_differ) {
  EXPECT_NE(Shape({1}), Shape({1, 1}));
  EXPECT_NE(Shape({1, 2}), Shape({2, 1}));
  EXPECT_EQ(Shape({1, 2}).to_string(), "[1, 2]");
}

TEST(DTypeTest, every_dtype_has_a_size_and_a_name_that_leads_back) {
  for (int value = 0; value < 256; ++value) {
    const auto dtype = static_cast<DType>(value);
    const bool known = is_known_dtype(static_cast<std::uint8_t>(value));
    EXPECT_EQ(dtype_size_bytes(dtype) > 0, known) << value;
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)) == dtype, known) << value;
  }
}

}  // namespace
}  // namespace bucketd
