// Copying a client's tensors into private memory, padded or as they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucketd/shape.h"
#include "daemon/plans/plan.h"

namespace bucketd {

// Writes the whole tensor of `layout` (layout.padded_bytes bytes): the contiguous tensor `source`
// of shape `source_shape` at layout.pad_before, layout.fill_bits around it. Asserts that it fits.
void copy_padded(std::byte* destination, const std::byte* source, const Shape& source_shape,
                 const PlanInput& layout);

// Copies `bytes` bytes of elements; `destination` may be `source`. A bool becomes 0 or 1: operators
// may assume that it is nothing else, and what they do otherwise is undefined.
void copy_elements(DType dtype, std::byte* destination, const std::byte* source,
                   std::uint64_t bytes);

// Fills `bytes` bytes with elements of `element_bytes` bytes whose bits are the low ones of `bits`.
void fill_elements(std::byte* destination, std::uint64_t bytes, std::size_t element_bytes,
                   std::uint64_t bits);

}  // namespace bucketd
