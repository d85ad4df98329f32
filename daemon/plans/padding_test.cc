#include "daemon/plans/padding.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace bucketd {
namespace {

// The same, element by element, with nothing clever.
std::vector<std::byte> padded_naively(const std::vector<std::byte>& source,
                                      const Shape& source_shape, const PlanInput& layout) {
  const std::size_t element = dtype_size_bytes(layout.dtype);
  const std::size_t count = *layout.padded.element_count();
  std::vector<std::byte> result(count * element);
  for (std::size_t flat = 0; flat < count; ++flat) {
    std::array<std::int64_t, kMaxRank> at{};
    std::size_t rest = flat;
    for (std::size_t d = layout.padded.rank(); d-- > 0;) {
      at[d] = static_cast<std::int64_t>(rest % static_cast<std::size_t>(layout.padded[d]));
      rest /= static_cast<std::size_t>(layout.padded[d]);
    }
    bool inside = true;
    std::size_t source_flat = 0;
    for (std::size_t d = 0; d < layout.padded.rank(); ++d) {
      const std::int64_t index = at[d] - layout.pad_before[d];
      inside = inside && index >= 0 && index < source_shape[d];
      source_flat =
          source_flat * static_cast<std::size_t>(source_shape[d]) + static_cast<std::size_t>(index);
    }
    for (std::size_t b = 0; b < element; ++b) {
      std::byte value = inside ? source[source_flat * element + b]
                               : static_cast<std::byte>(layout.fill_bits >> (8 * b));
      if (layout.dtype == DType::kBool) value = static_cast<std::byte>(value != std::byte{0});
      result[flat * element + b] = value;
    }
  }
  return result;
}

class CopyPadded : public ::testing::TestWithParam<int> {
 protected:
  DType dtype() const { return static_cast<DType>(GetParam()); }
};

TEST_P(CopyPadded, equals_the_naive_copy_for_random_shapes_and_places) {
  std::mt19937 random(7);
  const auto below = [&](std::int64_t limit) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
  };
  for (int round = 0; round < 400; ++round) {
    PlanInput layout;
    layout.dtype = dtype();
    layout.fill_bits = dtype() == DType::kBool ? 1 : round % 3 == 0 ? 0 : 0x0102030405060708u;
    const std::size_t rank = static_cast<std::size_t>(below(6));
    std::vector<std::int64_t> source_dims;
    std::vector<std::int64_t> padded_dims;
    for (std::size_t d = 0; d < rank; ++d) {
      padded_dims.push_back(below(8) == 0 ? 0 : 1 + below(5));
      const bool equal = below(2) == 0;
      source_dims.push_back(equal ? padded_dims[d] : below(padded_dims[d] + 1));
      layout.pad_before[d] = below(padded_dims[d] - source_dims[d] + 1);
    }
    const Shape source_shape = *Shape::from(source_dims);
    layout.padded = *Shape::from(padded_dims);
    layout.padded_bytes = *layout.padded.byte_size(dtype());
    std::vector<std::byte> source(*source_shape.byte_size(dtype()));
    for (std::byte& byte : source) byte = static_cast<std::byte>(random());
    std::vector<std::byte> result(layout.padded_bytes + 1, std::byte{0xAA});
    copy_padded(result.data(), source.data(), source_shape, layout);
    EXPECT_EQ(result.back(), std::byte{0xAA}) << "wrote beyond the end";
    result.pop_back();
    EXPECT_EQ(result, padded_naively(source, source_shape, layout))
        << source_shape.to_string() << " in " << layout.padded.to_string();
  }
}

TEST_P(CopyPadded, copies_elements_as_they_are_but_bools_as_0_and_1) {
  std::vector<std::byte> source(64);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i);
  std::vector<std::byte> result(64);
  copy_elements(dtype(), result.data(), source.data(), source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::byte expected =
        dtype() == DType::kBool ? static_cast<std::byte>(i != 0 ? 1 : 0) : source[i];
    EXPECT_EQ(result[i], expected) << "byte " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDType, CopyPadded, ::testing::Range(1, 11), [](const auto& info) {
  return std::string(dtype_name(static_cast<DType>(info.param)));
});

}  // namespace
}  // namespace bucketd
