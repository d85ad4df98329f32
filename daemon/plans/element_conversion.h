// Elements of one dtype as elements of another, bit for bit as LibTorch's copies convert them.
//
// Thread safety: functions without state.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucketd/dtype.h"

namespace bucketd {

// Whether every LibTorch on every machine converts `from` to `to` in one way, for all bits that a
// `from` may hold. False where the result may be out of range (floating point to integers:
// undefined in C++) and where NaNs become different ones (to float16 and bfloat16 from other
// floating-point types: vector instructions keep other bits than scalar code).
bool has_exact_conversion(DType from, DType to);

// Whether a copy by way of `via` equals the copy `from` to `to`, for any `to`: `via` holds every
// `from` unchanged.
bool passes_unchanged(DType from, DType via);

// One row of elements: `count` of them, `strides` counted in elements. Both ends are aligned to
// their element's size and do not overlap. Bools become 0 or 1 whatever byte `source` holds.
// Asserts has_exact_conversion(from, to).
void convert_row(DType to, std::byte* destination, std::int64_t destination_stride, DType from,
                 const std::byte* source, std::int64_t source_stride, std::int64_t count);

// One element's bits, in the low bytes.
std::uint64_t convert_bits(DType to, DType from, std::uint64_t bits);

}  // namespace bucketd
