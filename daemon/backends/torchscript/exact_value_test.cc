#include "daemon/backends/torchscript/exact_value.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace bucketd::torchscript {
namespace {

std::optional<double> exact(const char* text, DType dtype) {
  return exact_value(nlohmann::json::parse(text), dtype);
}

TEST(ExactValue, integers_hold_whole_numbers_of_their_range) {
  EXPECT_EQ(exact("255", DType::kUint8), 255);
  EXPECT_EQ(exact("256", DType::kUint8), std::nullopt);
  EXPECT_EQ(exact("-1", DType::kUint8), std::nullopt);
  EXPECT_EQ(exact("-128", DType::kInt8), -128);
  EXPECT_EQ(exact("-129", DType::kInt8), std::nullopt);
  EXPECT_EQ(exact("32767", DType::kInt16), 32767);
  EXPECT_EQ(exact("2147483648", DType::kInt32), std::nullopt);
  EXPECT_EQ(exact("3.0", DType::kInt32), 3);
  EXPECT_EQ(exact("3.5", DType::kInt32), std::nullopt);
}

TEST(ExactValue, int64_holds_what_a_double_does) {
  EXPECT_EQ(exact("-9223372036854775808", DType::kInt64), -0x1p63);
  EXPECT_EQ(exact("9223372036854775807", DType::kInt64), std::nullopt);
  EXPECT_EQ(exact("9223372036854775808", DType::kInt64), std::nullopt);
  EXPECT_EQ(exact("9007199254740992", DType::kInt64), 0x1p53);
  EXPECT_EQ(exact("9007199254740993", DType::kInt64), std::nullopt);
}

TEST(ExactValue, floats_hold_what_their_significand_and_exponent_allow) {
  EXPECT_EQ(exact("2048", DType::kFloat16), 2048);
  EXPECT_EQ(exact("2049", DType::kFloat16), std::nullopt);
  EXPECT_EQ(exact("65504", DType::kFloat16), 65504);
  EXPECT_EQ(exact("65536", DType::kFloat16), std::nullopt);
  EXPECT_EQ(exact("5.9604644775390625e-8", DType::kFloat16), 0x1p-24);
  EXPECT_EQ(exact("2.98023223876953125e-8", DType::kFloat16), std::nullopt);
  EXPECT_EQ(exact("256", DType::kBfloat16), 256);
  EXPECT_EQ(exact("257", DType::kBfloat16), std::nullopt);
  EXPECT_EQ(exact("0.5", DType::kFloat32), 0.5);
  EXPECT_EQ(exact("0.1", DType::kFloat32), std::nullopt);
  EXPECT_EQ(exact("16777217", DType::kFloat32), std::nullopt);
  EXPECT_EQ(exact("0.1", DType::kFloat64), 0.1);
  EXPECT_EQ(exact("-0.0", DType::kFloat16), 0);
}

TEST(ExactValue, booleans_are_for_bool) {
  EXPECT_EQ(exact("true", DType::kBool), 1);
  EXPECT_EQ(exact("false", DType::kBool), 0);
  EXPECT_EQ(exact("1", DType::kBool), 1);
  EXPECT_EQ(exact("2", DType::kBool), std::nullopt);
  EXPECT_EQ(exact("true", DType::kInt64), std::nullopt);
}

}  // namespace
}  // namespace bucketd::torchscript
