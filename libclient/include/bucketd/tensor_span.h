// Typed strided views of tensors that lie in a request's or a reply's slot.
//
//   StridedSpan<std::int64_t> ids = request.input<std::int64_t>(0);
//   ids.copy_from(tokens);            // contiguous source, row-major
//   ids(0, 5) = 102;                  // or element by element
//
// Views do not own: they are valid as long as the Request or Reply that gave them.
// Thread safety: as for a pointer.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "bucketd/dtype.h"
#include "bucketd/shape.h"

namespace bucketd {

// T may be const. float16 and bfloat16 elements are std::uint16_t bits.
template <typename T>
class StridedSpan {
 public:
  StridedSpan() = default;
  // `strides` in elements.
  StridedSpan(T* data, const Shape& shape, const std::array<std::int64_t, kMaxRank>& strides)
      : data_(data), shape_(shape), strides_(strides) {}

  const Shape& shape() const { return shape_; }
  std::int64_t stride(std::size_t dim) const { return strides_[dim]; }
  // The first element. May be null when there are none.
  T* data() const { return data_; }
  std::size_t size() const { return static_cast<std::size_t>(shape_.element_count().value_or(0)); }

  // Element at these indices, one for each dimension. Indices are asserted only.
  template <typename... Index>
  T& operator()(Index... index) const {
    assert(sizeof...(index) == shape_.rank());
    const std::array<std::int64_t, sizeof...(index)> at{static_cast<std::int64_t>(index)...};
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < at.size(); ++d) {
      assert(at[d] >= 0 && at[d] < shape_[d]);
      offset += at[d] * strides_[d];
    }
    return data_[offset];
  }

  bool is_contiguous() const {
    std::int64_t expected = 1;
    for (std::size_t d = shape_.rank(); d-- > 0;) {
      if (shape_[d] != 1 && strides_[d] != expected) return false;
      expected *= shape_[d];
    }
    return true;
  }

  // Copies size() elements from a contiguous row-major `source`, which has at least as many.
  void copy_from(std::span<const std::remove_const_t<T>> source) const
      requires(!std::is_const_v<T>) {
    assert(source.size() >= size());
    const auto* from = source.data();
    for_each_row([&](T* row, std::size_t count, std::int64_t stride) {
      for (std::size_t i = 0; i < count; ++i) row[static_cast<std::int64_t>(i) * stride] = from[i];
      from += count;
    });
  }

  // A contiguous row-major copy.
  std::vector<std::remove_const_t<T>> to_vector() const {
    std::vector<std::remove_const_t<T>> result;
    result.reserve(size());
    for_each_row([&](T* row, std::size_t count, std::int64_t stride) {
      for (std::size_t i = 0; i < count; ++i) {
        result.push_back(row[static_cast<std::int64_t>(i) * stride]);
      }
    });
    return result;
  }

  // Calls visit(first, count, stride) for every run along the last dimension, in row-major order.
  template <typename Visit>
  void for_each_row(Visit visit) const {
    if (size() == 0) return;
    const std::size_t rank = shape_.rank();
    if (rank == 0) {
      visit(data_, std::size_t{1}, std::int64_t{1});
      return;
    }
    std::array<std::int64_t, kMaxRank> at{};
    while (true) {
      std::int64_t offset = 0;
      for (std::size_t d = 0; d + 1 < rank; ++d) offset += at[d] * strides_[d];
      visit(data_ + offset, static_cast<std::size_t>(shape_[rank - 1]), strides_[rank - 1]);
      std::size_t d = rank - 1;
      while (d > 0 && ++at[d - 1] == shape_[d - 1]) at[--d] = 0;
      if (d == 0) return;
    }
  }

 private:
  T* data_ = nullptr;
  Shape shape_;
  std::array<std::int64_t, kMaxRank> strides_{};
};

// The same without a type: for tools that handle any dtype. Strides in bytes.
struct RawTensorSpan {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::byte* data = nullptr;
  std::array<std::int64_t, kMaxRank> byte_strides{};

  // Copies from (to) contiguous row-major bytes of shape.byte_size(dtype) bytes.
  void copy_from(std::span<const std::byte> source) const;
  void copy_to(std::span<std::byte> destination) const;
};

}  // namespace bucketd
