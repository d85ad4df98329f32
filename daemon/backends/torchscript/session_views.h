// SessionViews: BoundStates of this backend: a session's buffers, and the views that buckets take.
//
// Thread safety: see BoundStates.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <cstddef>
#include <span>
#include <vector>

#include "daemon/backends/backend.h"

namespace bucketd::torchscript {

struct SessionViews final : BoundStates {
  SessionViews(std::span<const TensorView> states, std::size_t bucket_count)
      : full(states.begin(), states.end()), kept(bucket_count) {}

  const std::vector<TensorView> full;
  // kept[bucket]: its views, once it has run; empty before, and where the preprocessor runs for
  // every request.
  std::vector<std::vector<at::Tensor>> kept;
  // The views of the present request, where they are not kept.
  std::vector<at::Tensor> passing;
};

}  // namespace bucketd::torchscript
