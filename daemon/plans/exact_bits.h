// Numbers as tensors hold them.
#pragma once

#include <cstdint>
#include <optional>

#include "bucketd/dtype.h"

namespace bucketd {

// One element of `dtype` that is `value`, in the low bytes, the others zero. Nothing when the dtype
// cannot hold `value` unchanged: out of its range, between two of its numbers, or NaN. Bool holds 0
// and 1; infinities are floating-point numbers.
std::optional<std::uint64_t> exact_bits(DType dtype, double value);

}  // namespace bucketd
