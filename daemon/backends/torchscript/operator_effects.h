// What operators on the allow-list do to tensors, told to a TensorTape.
//
// Thread safety: functions without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <string>

#include "bucketd/status.h"
#include "daemon/backends/torchscript/operator_rules.h"
#include "daemon/backends/torchscript/tensor_tape.h"

namespace bucketd::torchscript {

// A dense tensor in the CPU's memory, of a dtype that bucketd carries, whose elements are its
// memory's.
bool is_plain_tensor(const at::Tensor& tensor);

// Before the operator runs. Errors: UNIMPLEMENTED with a reason when it would read numbers of an
// input, or numbers that were never written.
Status check_arguments(const std::string& kind, OperatorRule rule,
                       const torch::jit::Stack& arguments, const TensorTape& tape);

// After it ran on `arguments` and gave `results`. Errors: UNIMPLEMENTED with a reason.
Status note_effects(const std::string& kind, OperatorRule rule, const torch::jit::Stack& arguments,
                    const torch::jit::Stack& results, TensorTape& tape);

}  // namespace bucketd::torchscript
