#include "daemon/plans/exact_bits.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bucketd {
namespace {

template <typename T>
std::optional<std::uint64_t> integer_bits(double value) {
  // The limits as doubles: the lower one is exact, the upper one is the exclusive power of two.
  const double lowest = static_cast<double>(std::numeric_limits<T>::min());
  const double beyond = std::ldexp(1.0, std::numeric_limits<T>::digits);
  if (!(value >= lowest && value < beyond) || value != std::trunc(value)) return std::nullopt;
  using Unsigned = std::make_unsigned_t<T>;
  return static_cast<Unsigned>(static_cast<T>(value));
}

// An IEEE 754 format.
struct FloatFormat {
  int exponent_bits;
  int mantissa_bits;
};

std::optional<std::uint64_t> float_bits(FloatFormat format, double value) {
  const int sign_bit = format.exponent_bits + format.mantissa_bits;
  const std::uint64_t sign = std::uint64_t{std::signbit(value)} << sign_bit;
  const std::uint64_t infinity = ((std::uint64_t{1} << format.exponent_bits) - 1)
                                 << format.mantissa_bits;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return std::nullopt;
  if (std::isinf(value)) return sign | infinity;
  if (magnitude == 0) return sign;
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  // Below the least exponent, subnormal numbers lose one bit a step.
  const int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  if (exponent > bias) return std::nullopt;
  // In units of the last place, of which there are less than 2^(mantissa_bits + 1): exact if whole.
  const double units = std::ldexp(magnitude, format.mantissa_bits - exponent);
  if (units != std::trunc(units)) return std::nullopt;
  const auto whole = static_cast<std::uint64_t>(units);
  const std::uint64_t hidden = std::uint64_t{1} << format.mantissa_bits;
  if (whole < hidden) return sign | whole;  // subnormal
  return sign |
         (static_cast<std::uint64_t>(exponent + bias) << format.mantissa_bits | (whole - hidden));
}

}  // namespace

std::optional<std::uint64_t> exact_bits(DType dtype, double value) {
  switch (dtype) {
    case DType::kBool:
      if (value != 0 && value != 1) return std::nullopt;
      return value == 1 ? 1 : 0;
    case DType::kUint8:
      return integer_bits<std::uint8_t>(value);
    case DType::kInt8:
      return integer_bits<std::int8_t>(value);
    case DType::kInt16:
      return integer_bits<std::int16_t>(value);
    case DType::kInt32:
      return integer_bits<std::int32_t>(value);
    case DType::kInt64:
      return integer_bits<std::int64_t>(value);
    case DType::kFloat16:
      return float_bits({5, 10}, value);
    case DType::kBfloat16:
      return float_bits({8, 7}, value);
    case DType::kFloat32:
      return float_bits({8, 23}, value);
    case DType::kFloat64:
      return float_bits({11, 52}, value);
  }
  return std::nullopt;
}

}  // namespace bucketd
