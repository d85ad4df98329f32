#include "daemon/backends/torchscript/exact_value.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

namespace bucketd::torchscript {
namespace {

// IEEE 754 formats: bits of the significand with the implicit one, exponents of normal numbers.
struct FloatFormat {
  int significand_bits;
  int least_exponent;
  int greatest_exponent;
};

bool holds(const FloatFormat& format, double value) {
  if (value == 0) return true;
  int exponent = 0;
  std::frexp(value, &exponent);  // |value| in [2^(exponent-1), 2^exponent)
  --exponent;
  if (exponent > format.greatest_exponent) return false;
  // Below the least exponent, subnormal numbers lose one bit a step.
  const int last_bit = std::max(exponent, format.least_exponent) - (format.significand_bits - 1);
  const double scaled = std::ldexp(value, -last_bit);
  return scaled == std::trunc(scaled);
}

template <typename T>
bool holds_integer(double value) {
  // Both ends as doubles: the upper one, 2^n, is exact and excluded.
  return value == std::trunc(value) &&
         value >= static_cast<double>(std::numeric_limits<T>::min()) &&
         value < std::ldexp(1.0, std::numeric_limits<T>::digits);
}

bool dtype_holds(DType dtype, double value) {
  switch (dtype) {
    case DType::kBool:
      return value == 0 || value == 1;
    case DType::kUint8:
      return holds_integer<std::uint8_t>(value);
    case DType::kInt8:
      return holds_integer<std::int8_t>(value);
    case DType::kInt16:
      return holds_integer<std::int16_t>(value);
    case DType::kInt32:
      return holds_integer<std::int32_t>(value);
    case DType::kInt64:
      return holds_integer<std::int64_t>(value);
    case DType::kFloat16:
      return holds({11, -14, 15}, value);
    case DType::kBfloat16:
      return holds({8, -126, 127}, value);
    case DType::kFloat32:
      return holds({24, -126, 127}, value);
    case DType::kFloat64:
      return true;
  }
  return false;
}

}  // namespace

std::optional<double> exact_value(const nlohmann::json& number, DType dtype) {
  if (number.is_boolean()) {
    if (dtype != DType::kBool) return std::nullopt;
    return number.get<bool>() ? 1.0 : 0.0;
  }
  const double value = number.get<double>();
  if (!std::isfinite(value) || !dtype_holds(dtype, value)) return std::nullopt;
  // A JSON integer that a double rounds; 2^63 and 2^64 themselves were refused above or are not
  // reached by rounding.
  if (number.is_number_unsigned()) {
    if (value >= 0x1p64 || static_cast<std::uint64_t>(value) != number.get<std::uint64_t>()) {
      return std::nullopt;
    }
  } else if (number.is_number_integer()) {
    if (value >= 0x1p63 || static_cast<std::int64_t>(value) != number.get<std::int64_t>()) {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace bucketd::torchscript
