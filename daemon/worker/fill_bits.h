// The bits of a padding value in each dtype.
#pragma once

#include <cstdint>
#include <optional>

#include "bucketd/dtype.h"

namespace bucketd {

// One element of `dtype` with the value nearest to `value`, in the low bytes, the others zero.
// Floating-point types round once, ties to even (beyond the largest finite value: infinity; NaN
// stays NaN). Nothing when an integer type cannot hold `value` exactly; bool holds 0 and 1.
std::optional<std::uint64_t> fill_bits(DType dtype, double value);

}  // namespace bucketd
