// Between bucketd's tensor views and at::Tensor.
//
// Thread safety: functions without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/shape.h"
#include "bucketd/status.h"
#include "daemon/backends/backend.h"

namespace bucketd::torchscript {

at::ScalarType scalar_type(DType dtype);
// Nothing for types that bucketd does not carry (complex, quantised).
std::optional<DType> dtype_of(at::ScalarType type);

// The sizes of `shape`; refers to it.
inline at::IntArrayRef sizes_of(const Shape& shape) { return {shape.dims().data(), shape.rank()}; }

// A tensor on the memory of `view`, which has to outlive it. No copy.
at::Tensor tensor_on(const TensorView& view);
// The same for memory that nobody may write through the tensor.
at::Tensor tensor_on(const ConstTensorView& view);

// Whether the tensor is a dense CPU tensor of that dtype and shape.
bool has_signature(const at::Tensor& tensor, DType dtype, const Shape& shape);

// "int64 [1, 128]", for error texts.
std::string signature_text(const at::Tensor& tensor);
std::string signature_text(DType dtype, const Shape& shape);

// Copies `source`, of the destination's signature, into it.
void copy_into(const TensorView& destination, const at::Tensor& source);

}  // namespace bucketd::torchscript
