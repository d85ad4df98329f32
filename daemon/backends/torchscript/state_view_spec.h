// What a view of a state is like, for whoever asks how a bucket gets its states.
//
// Thread safety: a function without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include "bucketd/model_description.h"

namespace bucketd::torchscript {

// Of `view`, a view of the contiguous buffer of `state` (which begins at its storage's start):
// kContiguous or kStrided, and in words which part it is, and how it lies there.
StateViewSpec describe_view(const at::Tensor& view, const StateSpec& state);

}  // namespace bucketd::torchscript
