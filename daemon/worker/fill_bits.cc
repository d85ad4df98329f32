#include "daemon/worker/fill_bits.h"

#include <algorithm>
#include <bit>
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

// A 16-bit IEEE format. Rounds from double directly: by way of float a value could round twice.
std::uint64_t small_float_bits(double value, int exponent_bits, int mantissa_bits) {
  const std::uint64_t sign = std::signbit(value) ? 0x8000 : 0;
  const std::uint64_t infinity = ((std::uint64_t{1} << exponent_bits) - 1) << mantissa_bits;
  if (std::isnan(value)) return sign | infinity | (std::uint64_t{1} << (mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return sign | infinity;
  if (magnitude == 0) return sign;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  if (exponent > bias) return sign | infinity;
  // In units of the last place, where the scaling is exact: at most 2^(mantissa_bits + 1).
  const auto units =
      static_cast<std::uint64_t>(std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent)));
  const std::uint64_t hidden = std::uint64_t{1} << mantissa_bits;
  if (units < hidden) return sign | units;  // subnormal
  // Rounding up to the next power of two carries into the exponent by itself, up to infinity.
  return sign | ((static_cast<std::uint64_t>(exponent + bias) << mantissa_bits) + (units - hidden));
}

}  // namespace

std::optional<std::uint64_t> fill_bits(DType dtype, double value) {
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
      return small_float_bits(value, 5, 10);
    case DType::kBfloat16:
      return small_float_bits(value, 8, 7);
    case DType::kFloat32:
      return std::bit_cast<std::uint32_t>(static_cast<float>(value));
    case DType::kFloat64:
      return std::bit_cast<std::uint64_t>(value);
  }
  return std::nullopt;
}

}  // namespace bucketd
