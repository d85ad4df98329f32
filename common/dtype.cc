#include "bucketd/dtype.h"

#include <array>

namespace bucketd {
namespace {

struct Name {
  DType dtype;
  std::string_view name;
};

constexpr std::array<Name, 10> kNames = {{
    {DType::kBool, "bool"},
    {DType::kUint8, "uint8"},
    {DType::kInt8, "int8"},
    {DType::kInt16, "int16"},
    {DType::kInt32, "int32"},
    {DType::kInt64, "int64"},
    {DType::kFloat16, "float16"},
    {DType::kBfloat16, "bfloat16"},
    {DType::kFloat32, "float32"},
    {DType::kFloat64, "float64"},
}};

}  // namespace

std::string_view dtype_name(DType dtype) {
  for (const Name& entry : kNames) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "unknown";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Name& entry : kNames) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

}  // namespace bucketd
