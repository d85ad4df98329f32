// What is tried on a model before it serves.
//
// Thread safety: functions without state. Calls have to be made with c10::InferenceMode on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "bucketd/status.h"
#include "daemon/backends/torchscript/loaded_module.h"
#include "daemon/backends/torchscript/state_views.h"

namespace bucketd::torchscript {

// Runs the bucket kernel at every bucket's exact input shapes, where it has to choose a bucket of
// those shapes, and with every size that may vary one larger, where it has to choose a bucket that
// holds the inputs, or none. A declarative kernel is besides compared with what its declaration
// says, there and one element short.
// Errors: INVALID_ARGUMENT naming the inputs tried and what the kernel did.
Status validate_kernel(const LoadedModule& module);

// The input shapes of bucket `bucket` with every size that may vary changed by `step`; nothing if
// none varies, or if a size would fall below what is accepted.
std::optional<std::vector<Shape>> stepped_shapes(const ModelDescription& model, std::size_t bucket,
                                                 std::int64_t step);

// Runs every bucket once, on zeros (on ones if it refuses zeros) and copies of the initial states.
// Errors: INVALID_ARGUMENT with what the bucket gave or why it failed.
Status warm_up(const LoadedModule& module, const StateViews& state_views);

}  // namespace bucketd::torchscript
