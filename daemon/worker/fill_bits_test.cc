#include "daemon/worker/fill_bits.h"

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

TEST(FillBits, gives_every_finite_float16_its_own_bits) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7C00) == 0x7C00) continue;
    EXPECT_EQ(fill_bits(DType::kFloat16, value_of_small_float(bits, 5, 10)), bits);
  }
}

TEST(FillBits, gives_every_finite_bfloat16_its_own_bits) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7F80) == 0x7F80) continue;
    EXPECT_EQ(fill_bits(DType::kBfloat16, value_of_small_float(bits, 8, 7)), bits);
  }
}

TEST(FillBits, rounds_between_neighbouring_float16_to_the_nearest_and_ties_to_even) {
  for (std::uint32_t bits = 0; bits + 1 < 0x7C00; ++bits) {
    const double low = value_of_small_float(bits, 5, 10);
    const double high = value_of_small_float(bits + 1, 5, 10);
    const double middle = (low + high) / 2;
    EXPECT_EQ(fill_bits(DType::kFloat16, middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(fill_bits(DType::kFloat16, std::nextafter(middle, low)), bits);
    EXPECT_EQ(fill_bits(DType::kFloat16, std::nextafter(middle, high)), bits + 1);
  }
}

TEST(FillBits, does_not_round_twice) {
  // By way of float this would become a tie and go up to the even neighbour's side.
  const double just_above_tie = 1 + std::ldexp(1.0, -8) + std::ldexp(1.0, -40);
  EXPECT_EQ(fill_bits(DType::kBfloat16, just_above_tie), 0x3F81u);
  EXPECT_EQ(fill_bits(DType::kBfloat16, 1 + std::ldexp(1.0, -8)), 0x3F80u);
}

TEST(FillBits, knows_infinities_nan_and_the_sign_of_zero) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(fill_bits(DType::kFloat16, kInfinity), 0x7C00u);
  EXPECT_EQ(fill_bits(DType::kFloat16, -kInfinity), 0xFC00u);
  EXPECT_EQ(fill_bits(DType::kFloat16, 65519.99), 0x7BFFu);
  EXPECT_EQ(fill_bits(DType::kFloat16, 65520), 0x7C00u);
  EXPECT_EQ(fill_bits(DType::kBfloat16, 1e39), 0x7F80u);
  EXPECT_EQ(fill_bits(DType::kBfloat16, -kInfinity), 0xFF80u);
  EXPECT_EQ(fill_bits(DType::kFloat16, -0.0), 0x8000u);
  EXPECT_EQ(fill_bits(DType::kFloat32, -0.0), 0x80000000u);
  const std::uint64_t nan = *fill_bits(DType::kFloat16, std::nan(""));
  EXPECT_EQ(nan & 0x7C00, 0x7C00u);
  EXPECT_NE(nan & 0x03FF, 0u);
}

TEST(FillBits, gives_wide_floats_their_bits) {
  EXPECT_EQ(fill_bits(DType::kFloat32, -1e9), std::bit_cast<std::uint32_t>(-1e9f));
  EXPECT_EQ(fill_bits(DType::kFloat64, 0.1), std::bit_cast<std::uint64_t>(0.1));
}

TEST(FillBits, gives_integers_only_what_they_hold) {
  EXPECT_EQ(fill_bits(DType::kInt8, -128), 0x80u);
  EXPECT_EQ(fill_bits(DType::kInt8, 128), std::nullopt);
  EXPECT_EQ(fill_bits(DType::kUint8, 255), 0xFFu);
  EXPECT_EQ(fill_bits(DType::kUint8, -1), std::nullopt);
  EXPECT_EQ(fill_bits(DType::kInt16, -2), 0xFFFEu);
  EXPECT_EQ(fill_bits(DType::kInt32, -1), 0xFFFFFFFFu);
  EXPECT_EQ(fill_bits(DType::kInt64, -1), ~std::uint64_t{0});
  EXPECT_EQ(fill_bits(DType::kInt64, 9223372036854775808.0), std::nullopt);
  EXPECT_EQ(fill_bits(DType::kInt64, -9223372036854775808.0), std::uint64_t{1} << 63);
  EXPECT_EQ(fill_bits(DType::kInt32, 0.5), std::nullopt);
  EXPECT_EQ(fill_bits(DType::kInt32, std::nan("")), std::nullopt);
  EXPECT_EQ(fill_bits(DType::kBool, 1), 1u);
  EXPECT_EQ(fill_bits(DType::kBool, 0), 0u);
  EXPECT_EQ(fill_bits(DType::kBool, 2), std::nullopt);
}

}  // namespace
}  // namespace bucketd
