#include "daemon/plans/exact_bits.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace bucketd {
namespace {

double value_of_small_float(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

TEST(ExactBits, gives_every_finite_float16_its_own_bits) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7C00) == 0x7C00) continue;
    EXPECT_EQ(exact_bits(DType::kFloat16, value_of_small_float(bits, 5, 10)), bits);
  }
}

TEST(ExactBits, gives_every_finite_bfloat16_its_own_bits) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7F80) == 0x7F80) continue;
    EXPECT_EQ(exact_bits(DType::kBfloat16, value_of_small_float(bits, 8, 7)), bits);
  }
}

TEST(ExactBits, gives_nothing_between_neighbouring_float16) {
  for (std::uint32_t bits = 0; bits + 1 < 0x7C00; ++bits) {
    const double low = value_of_small_float(bits, 5, 10);
    const double high = value_of_small_float(bits + 1, 5, 10);
    EXPECT_EQ(exact_bits(DType::kFloat16, (low + high) / 2), std::nullopt);
    EXPECT_EQ(exact_bits(DType::kFloat16, std::nextafter(low, high)), std::nullopt);
    EXPECT_EQ(exact_bits(DType::kFloat16, -std::nextafter(high, low)), std::nullopt);
  }
}

TEST(ExactBits, gives_nothing_beyond_the_greatest_number_or_for_nan) {
  EXPECT_EQ(exact_bits(DType::kFloat16, 65504), 0x7BFFu);
  EXPECT_EQ(exact_bits(DType::kFloat16, 65536), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kBfloat16, 1e39), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kFloat32, std::ldexp(1.0, 128)), std::nullopt);
  for (const DType dtype :
       {DType::kFloat16, DType::kBfloat16, DType::kFloat32, DType::kFloat64, DType::kInt64}) {
    EXPECT_EQ(exact_bits(dtype, std::nan("")), std::nullopt);
  }
}

TEST(ExactBits, knows_infinities_and_the_sign_of_zero) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(exact_bits(DType::kFloat16, kInfinity), 0x7C00u);
  EXPECT_EQ(exact_bits(DType::kFloat16, -kInfinity), 0xFC00u);
  EXPECT_EQ(exact_bits(DType::kBfloat16, -kInfinity), 0xFF80u);
  EXPECT_EQ(exact_bits(DType::kFloat32, -kInfinity), 0xFF800000u);
  EXPECT_EQ(exact_bits(DType::kFloat16, -0.0), 0x8000u);
  EXPECT_EQ(exact_bits(DType::kFloat32, -0.0), 0x80000000u);
  EXPECT_EQ(exact_bits(DType::kInt32, kInfinity), std::nullopt);
}

TEST(ExactBits, gives_wide_floats_the_bits_that_the_machine_has) {
  for (const float value : {1.0f, -1e9f, 0.1f, 3.4028235e38f, 1e-45f, 1.1754942e-38f}) {
    EXPECT_EQ(exact_bits(DType::kFloat32, double{value}), std::bit_cast<std::uint32_t>(value));
  }
  EXPECT_EQ(exact_bits(DType::kFloat32, 0.1), std::nullopt);
  for (const double value :
       {1.0, 0.1, -1e300, 5e-324, 2.2250738585072011e-308, 1.7976931348623157e308}) {
    EXPECT_EQ(exact_bits(DType::kFloat64, value), std::bit_cast<std::uint64_t>(value));
  }
}

TEST(ExactBits, gives_integers_only_what_they_hold) {
  EXPECT_EQ(exact_bits(DType::kInt8, -128), 0x80u);
  EXPECT_EQ(exact_bits(DType::kInt8, 128), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kUint8, 255), 0xFFu);
  EXPECT_EQ(exact_bits(DType::kUint8, -1), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kInt16, -2), 0xFFFEu);
  EXPECT_EQ(exact_bits(DType::kInt32, -1), 0xFFFFFFFFu);
  EXPECT_EQ(exact_bits(DType::kInt64, -1), ~std::uint64_t{0});
  EXPECT_EQ(exact_bits(DType::kInt64, 9223372036854775808.0), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kInt64, -9223372036854775808.0), std::uint64_t{1} << 63);
  EXPECT_EQ(exact_bits(DType::kInt32, 0.5), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kInt32, std::nan("")), std::nullopt);
  EXPECT_EQ(exact_bits(DType::kBool, 1), 1u);
  EXPECT_EQ(exact_bits(DType::kBool, 0), 0u);
  EXPECT_EQ(exact_bits(DType::kBool, 2), std::nullopt);
}

}  // namespace
}  // namespace bucketd
