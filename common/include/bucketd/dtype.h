// Element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bucketd {

// The numbers are part of the channel ABI and of the wire schema: never renumber.
enum class DType : std::uint8_t {
  kBool = 1,  // one byte, 0 or 1
  kUint8 = 2,
  kInt8 = 3,
  kInt16 = 4,
  kInt32 = 5,
  kInt64 = 6,
  kFloat16 = 7,   // IEEE 754 binary16
  kBfloat16 = 8,  // the upper half of a binary32
  kFloat32 = 9,
  kFloat64 = 10,
};

// Whether `value` is one of the enumerators: what arrives from another process need not be.
constexpr bool is_known_dtype(std::uint8_t value) { return value >= 1 && value <= 10; }

// Bytes of one element; 0 for a value that is no enumerator.
constexpr std::size_t dtype_size_bytes(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUint8:
    case DType::kInt8:
      return 1;
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBfloat16:
      return 2;
    case DType::kInt32:
    case DType::kFloat32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

constexpr bool is_floating_point(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBfloat16 || dtype == DType::kFloat32 ||
         dtype == DType::kFloat64;
}

// PyTorch's name of the type: "int64", "bfloat16". "unknown" for a value that is no enumerator.
std::string_view dtype_name(DType dtype);

// The type with that name, if there is one.
std::optional<DType> dtype_from_name(std::string_view name);

// The C++ type that holds an element, for typed views. float16 and bfloat16 have none in C++20 and
// are seen as their bits, std::uint16_t.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<bool> {
  static constexpr DType kValue = DType::kBool;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType kValue = DType::kUint8;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType kValue = DType::kInt8;
};
template <>
struct DTypeOf<std::int16_t> {
  static constexpr DType kValue = DType::kInt16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType kValue = DType::kInt32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType kValue = DType::kInt64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType kValue = DType::kFloat64;
};

}  // namespace bucketd
