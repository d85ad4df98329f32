#include "daemon/backends/torchscript/exact_value.h"

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "daemon/plans/exact_bits.h"

namespace bucketd::torchscript {
std::optional<double> exact_value(const nlohmann::json& number, DType dtype) {
  if (number.is_boolean()) {
    if (dtype != DType::kBool) return std::nullopt;
    return number.get<bool>() ? 1.0 : 0.0;
  }
  const double value = number.get<double>();
  if (!std::isfinite(value) || !exact_bits(dtype, value)) return std::nullopt;
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
