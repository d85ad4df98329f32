#include "daemon/plans/element_conversion.h"

#include <bit>
#include <cassert>
#include <cstring>
#include <type_traits>

namespace bucketd {
namespace {

// Elements as they lie in memory, for dtypes that C++20 has no type for.
struct Bool {
  std::uint8_t byte;
};
struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

float value_of(Half half) {
  const std::uint32_t sign = std::uint32_t{half.bits} >> 15 << 31;
  const std::uint32_t magnitude = half.bits & 0x7FFFu;
  if (magnitude > 0x7C00) {  // NaN: quiet, with what the old one carried
    return std::bit_cast<float>(sign | 0x7FC00000u | (magnitude & 0x3FFu) << 13);
  }
  if (magnitude == 0x7C00) return std::bit_cast<float>(sign | 0x7F800000u);
  float value = 0;
  if (magnitude < 0x400) {
    value = static_cast<float>(magnitude) * 0x1p-24f;
  } else {
    value = std::bit_cast<float>((magnitude << 13) + (112u << 23));
  }
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

float value_of(Bfloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
bool value_of(Bool value) { return value.byte != 0; }
template <typename T>
T value_of(T value) {
  return value;
}

// To the nearest, ties to even. No NaN comes here.
Half half_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x47800000u) return {static_cast<std::uint16_t>(sign | 0x7C00u)};  // 2^16
  if (magnitude < 0x38800000u) {  // below 2^-14: one half has its last place where half has it
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return {
        static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3F000000u))};
  }
  magnitude += 0xFFFu + (magnitude >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | ((magnitude - (112u << 23)) >> 13))};
}

Bfloat16 bfloat16_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}

template <typename To, typename From>
To convert(From from) {
  const auto value = value_of(from);
  if constexpr (std::is_same_v<To, Bool>) {
    return {static_cast<std::uint8_t>(value != 0)};
  } else if constexpr (std::is_same_v<To, From>) {
    return from;
  } else if constexpr (std::is_same_v<To, Half>) {
    return half_of(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, Bfloat16>) {
    return bfloat16_of(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <typename To, typename From>
void convert_row_as(std::byte* destination, std::int64_t destination_stride,
                    const std::byte* source, std::int64_t source_stride, std::int64_t count) {
  auto* to = reinterpret_cast<To*>(destination);
  const auto* from = reinterpret_cast<const From*>(source);
  if (destination_stride == 1 && source_stride == 1) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = convert<To>(from[i]);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    to[i * destination_stride] = convert<To>(from[i * source_stride]);
  }
}

bool is_integer(DType dtype) { return !is_floating_point(dtype) && dtype != DType::kBool; }

// Calls `visit` with a null pointer to the type of `dtype`'s elements.
template <typename Visit>
void with_element_type(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::kBool:
      return visit(static_cast<Bool*>(nullptr));
    case DType::kUint8:
      return visit(static_cast<std::uint8_t*>(nullptr));
    case DType::kInt8:
      return visit(static_cast<std::int8_t*>(nullptr));
    case DType::kInt16:
      return visit(static_cast<std::int16_t*>(nullptr));
    case DType::kInt32:
      return visit(static_cast<std::int32_t*>(nullptr));
    case DType::kInt64:
      return visit(static_cast<std::int64_t*>(nullptr));
    case DType::kFloat16:
      return visit(static_cast<Half*>(nullptr));
    case DType::kBfloat16:
      return visit(static_cast<Bfloat16*>(nullptr));
    case DType::kFloat32:
      return visit(static_cast<float*>(nullptr));
    case DType::kFloat64:
      return visit(static_cast<double*>(nullptr));
  }
}

template <typename T>
constexpr bool kIsFloating =
    std::is_floating_point_v<T> || std::is_same_v<T, Half> || std::is_same_v<T, Bfloat16>;

// has_exact_conversion() for types: what has none is not compiled.
template <typename From, typename To>
constexpr bool kIsExact =
    std::is_same_v<From, To> || std::is_same_v<To, Bool> || !kIsFloating<From> ||
    std::is_same_v<To, float> || std::is_same_v<To, double>;

}  // namespace

bool has_exact_conversion(DType from, DType to) {
  return from == to || to == DType::kBool || !is_floating_point(from) || to == DType::kFloat32 ||
         to == DType::kFloat64;
}

bool passes_unchanged(DType from, DType via) {
  if (from == via) return true;
  if (from == DType::kBool) return is_integer(via);
  if (!is_integer(from) || !is_integer(via)) return false;
  if (dtype_size_bytes(via) <= dtype_size_bytes(from)) return false;
  return true;  // a wider signed type holds them all, and uint8 is the narrowest
}

void convert_row(DType to, std::byte* destination, std::int64_t destination_stride, DType from,
                 const std::byte* source, std::int64_t source_stride, std::int64_t count) {
  assert(has_exact_conversion(from, to));
  with_element_type(to, [&]<typename To>(To*) {
    with_element_type(from, [&]<typename From>(From*) {
      if constexpr (kIsExact<From, To>) {
        convert_row_as<To, From>(destination, destination_stride, source, source_stride, count);
      }
    });
  });
}

std::uint64_t convert_bits(DType to, DType from, std::uint64_t bits) {
  alignas(8) std::byte source[8];
  alignas(8) std::byte destination[8] = {};
  std::memcpy(source, &bits, sizeof(bits));  // little endian, as everything that shares memory here
  convert_row(to, destination, 1, from, source, 1, 1);
  std::uint64_t converted = 0;
  std::memcpy(&converted, destination, sizeof(converted));
  return converted;
}

}  // namespace bucketd
