#include "bucketd/shape.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace bucketd {

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  assert(dims.size() <= kMaxRank);
  rank_ = std::min(dims.size(), kMaxRank);
  std::copy_n(dims.begin(), rank_, dims_.begin());
}

std::optional<Shape> Shape::from(std::span<const std::int64_t> dims) {
  if (dims.size() > kMaxRank) return std::nullopt;
  Shape shape;
  shape.rank_ = dims.size();
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < 0) return std::nullopt;
    shape.dims_[i] = dims[i];
  }
  return shape;
}

std::optional<std::uint64_t> Shape::element_count() const {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  std::uint64_t count = 1;
  bool has_zero = false;
  bool overflows = false;
  for (const std::int64_t size : dims()) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      has_zero = true;
      continue;
    }
    overflows = overflows ||
                __builtin_mul_overflow(count, static_cast<std::uint64_t>(size), &count) ||
                count > kMax;
  }
  if (has_zero) return 0;
  if (overflows) return std::nullopt;
  return count;
}

std::optional<std::uint64_t> Shape::byte_size(DType dtype) const {
  const std::optional<std::uint64_t> count = element_count();
  if (!count) return std::nullopt;
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(*count, std::uint64_t{dtype_size_bytes(dtype)}, &bytes) ||
      bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  return bytes;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[i]);
  }
  return text + "]";
}

bool operator==(const Shape& a, const Shape& b) {
  return a.rank_ == b.rank_ &&
         std::equal(a.dims_.begin(), a.dims_.begin() + a.rank_, b.dims_.begin());
}

}  // namespace bucketd
