#include "daemon/plans/padding.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

namespace bucketd {
namespace {

template <typename T>
void fill_typed(std::byte* destination, std::uint64_t bytes, std::uint64_t bits) {
  std::fill_n(reinterpret_cast<T*>(destination), bytes / sizeof(T), static_cast<T>(bits));
}

// Writes one tensor dimension by dimension: what lies inside `inner_dim` is one contiguous block in
// both tensors, so that all the work is done by long copies and fills.
struct PaddedCopy {
  const PlanInput& layout;
  const Shape& source_shape;
  std::size_t element_bytes;
  std::array<std::uint64_t, kMaxRank + 1> padded_bytes;  // of one index along dimension d - 1
  std::size_t inner_dim;  // dimensions from here on have equal sizes in both
  std::byte* to;
  const std::byte* from;

  void write(std::size_t dim) {
    if (dim >= inner_dim) {
      const std::uint64_t bytes = padded_bytes[dim];
      copy_elements(layout.dtype, to, from, bytes);
      to += bytes;
      from += bytes;
      return;
    }
    const std::uint64_t step = padded_bytes[dim + 1];
    const std::int64_t size = source_shape[dim];
    const std::int64_t before = layout.pad_before[dim];
    pad(static_cast<std::uint64_t>(before) * step);
    if (dim + 1 == inner_dim) {
      const std::uint64_t bytes = static_cast<std::uint64_t>(size) * step;
      copy_elements(layout.dtype, to, from, bytes);
      to += bytes;
      from += bytes;
    } else {
      for (std::int64_t i = 0; i < size; ++i) write(dim + 1);
    }
    pad(static_cast<std::uint64_t>(layout.padded[dim] - size - before) * step);
  }

  void pad(std::uint64_t bytes) {
    fill_elements(to, bytes, element_bytes, layout.fill_bits);
    to += bytes;
  }
};

}  // namespace

void fill_elements(std::byte* destination, std::uint64_t bytes, std::size_t element_bytes,
                   std::uint64_t bits) {
  if (bytes == 0) return;
  if (bits == 0) {  // by far the most frequent value
    std::memset(destination, 0, bytes);
    return;
  }
  switch (element_bytes) {
    case 1:
      return fill_typed<std::uint8_t>(destination, bytes, bits);
    case 2:
      return fill_typed<std::uint16_t>(destination, bytes, bits);
    case 4:
      return fill_typed<std::uint32_t>(destination, bytes, bits);
    default:
      return fill_typed<std::uint64_t>(destination, bytes, bits);
  }
}

void copy_elements(DType dtype, std::byte* destination, const std::byte* source,
                   std::uint64_t bytes) {
  if (bytes == 0) return;
  if (dtype == DType::kBool) {
    for (std::uint64_t i = 0; i < bytes; ++i) {
      destination[i] = static_cast<std::byte>(source[i] != std::byte{0});
    }
  } else if (destination != source) {
    std::memcpy(destination, source, bytes);
  }
}

void copy_padded(std::byte* destination, const std::byte* source, const Shape& source_shape,
                 const PlanInput& layout) {
  const std::size_t rank = layout.padded.rank();
  assert(source_shape.rank() == rank);
  if (layout.padded_bytes == 0) return;
  PaddedCopy copy{layout, source_shape, dtype_size_bytes(layout.dtype), {}, 0, destination, source};
  copy.padded_bytes[rank] = copy.element_bytes;
  copy.inner_dim = 0;
  for (std::size_t d = rank; d-- > 0;) {
    assert(source_shape[d] >= 0 && layout.pad_before[d] >= 0 &&
           source_shape[d] + layout.pad_before[d] <= layout.padded[d]);
    copy.padded_bytes[d] = copy.padded_bytes[d + 1] * static_cast<std::uint64_t>(layout.padded[d]);
    if (copy.inner_dim == 0 && source_shape[d] != layout.padded[d]) copy.inner_dim = d + 1;
  }
  copy.write(0);
}

}  // namespace bucketd
