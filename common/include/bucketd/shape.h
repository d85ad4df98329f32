// Shape: the sizes of a tensor's dimensions, held in place (no allocation), with checked
// arithmetic.
//
// Thread safety: a value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "bucketd/dtype.h"

namespace bucketd {

// Most dimensions that a tensor may have; part of the channel ABI.
inline constexpr std::size_t kMaxRank = 8;

class Shape {
 public:
  Shape() = default;  // rank 0: a scalar
  // Asserts rank <= kMaxRank; for sizes that a program knows. Sizes are not checked.
  Shape(std::initializer_list<std::int64_t> dims);

  // For sizes from outside: nothing if there are more than kMaxRank or one is negative.
  static std::optional<Shape> from(std::span<const std::int64_t> dims);

  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t dim) const { return dims_[dim]; }
  std::int64_t& operator[](std::size_t dim) { return dims_[dim]; }
  std::span<const std::int64_t> dims() const { return {dims_.data(), rank_}; }

  // Product of the sizes (1 for a scalar); nothing if it or a size is beyond 2^63 - 1 or negative.
  std::optional<std::uint64_t> element_count() const;
  // Bytes of a contiguous tensor; nothing on overflow.
  std::optional<std::uint64_t> byte_size(DType dtype) const;

  // "[1, 128]".
  std::string to_string() const;

  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  std::size_t rank_ = 0;
};

}  // namespace bucketd
