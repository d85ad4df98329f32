// Which arguments of a bucket may be read where the client wrote them.
//
// A client can change its slot while the bucket runs. That is its own loss as long as the elements
// are operands of arithmetic only. It is everybody's when an operator reads an element twice and
// relies on both being one: `nonzero` counts, then fills; `embedding` checks an index, then uses
// it; `sort` compares. So an argument is read in place only if it is of a floating-point dtype, if
// nothing writes into it, and if every operator that takes it, or a view of it, is on a list.
//
// Thread safety: a function without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <string>
#include <vector>

namespace bucketd::torchscript {

// For every argument of `function` after `self`: why it has to be copied ("aten::sort takes it"),
// or nothing. Dtypes are not looked at.
std::vector<std::string> reasons_to_copy(const torch::jit::Function& function);

}  // namespace bucketd::torchscript
