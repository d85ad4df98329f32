// Whether a dtype can hold a number of JSON unchanged.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "bucketd/dtype.h"

namespace bucketd::torchscript {

// `number` (a JSON number or boolean) as a tensor of `dtype` holds it; nothing when it is out of
// the type's range, would be rounded, or is no double (PadKernelSpec::value is one).
std::optional<double> exact_value(const nlohmann::json& number, DType dtype);

}  // namespace bucketd::torchscript
