// Reads what a worker wrote into an output slot. Nothing is believed: every record is copied to
// private memory first and the copy is checked against the slot's size, so that a worker gone wild
// can make a request fail, but cannot make this process read outside of the slot.
//
// Thread safety: functions of their arguments only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "libclient/request_layout.h"

namespace bucketd::internal {

// One output, checked: it lies inside of the slot, and the cropped part inside of it.
struct OutputPlacement {
  DType dtype = DType::kFloat32;
  Shape shape;  // the bucket's
  Shape crop_shape;
  std::array<std::int64_t, kMaxRank> crop_start{};
  std::uint64_t offset = 0;
};

// INTERNAL when the entry of a successful request cannot be one of `model`'s: unknown bucket or
// flag, wrong number of outputs, more descriptors than fit into `slot_bytes`.
Status check_success_entry(const ModelDescription& model, const CompletionEntry& entry,
                           std::uint64_t slot_bytes);

// The outputs of a success whose entry was checked; INTERNAL when a descriptor is wrong.
Status read_outputs(const ModelDescription& model, const CompletionEntry& entry,
                    std::span<const std::byte> slot, std::vector<OutputPlacement>& outputs);

// The plan behind the outputs of a success whose entry was checked and has kCompletionHasPlan.
// Nothing when it is sound but cannot be used to lay out inputs (it permutes or converts them);
// INTERNAL when it is wrong.
Result<std::optional<Plan>> read_plan(const ModelDescription& model, const CompletionEntry& entry,
                                      std::span<const TensorSignature> inputs,
                                      std::span<const std::byte> slot);

// The status of a failed request; INTERNAL when its text does not fit.
Result<Status> read_failure(const ModelDescription& model, const CompletionEntry& entry,
                            std::span<const std::byte> slot);

}  // namespace bucketd::internal
