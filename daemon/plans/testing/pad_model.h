// A model description for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bucketd/model_description.h"

namespace bucketd::testing {

// A model with one input and one output of the same dtype, [rows, n] for n in `sizes`, padded with
// `fill` on `side`; the output follows the input's last dimension.
ModelDescription pad_model(std::string name, std::vector<std::int64_t> sizes, double fill = 0,
                           PadSide side = PadSide::kRight, DType dtype = DType::kInt64,
                           std::int64_t rows = 1);

}  // namespace bucketd::testing
