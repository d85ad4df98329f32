// Validation of what a client submitted. Pure functions of private copies: nothing here sees shared
// memory, so that they can be fuzzed as they are.
//
//   SubmissionEntry entry = ...;                     // copied once
//   Status status = check_entry(model, entry);
//   ... copy entry.tensor_count descriptors once ...
//   status = check_descriptors(model, entry, descriptors, slot_bytes, inputs);
//
// After both succeeded, every inputs.offsets[i] .. + byte_sizes[i] lies within the slot, and the
// signatures have known dtypes, valid ranks and sizes whose product does not overflow.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "daemon/plans/plan.h"

namespace bucketd {

// The inputs of one request, in vectors that run parallel; reused from request to request.
struct SubmittedInputs {
  std::vector<TensorSignature> signatures;  // as the caller has them
  std::vector<std::uint64_t> offsets;       // from the slot's start
  std::vector<std::uint64_t> byte_sizes;    // in the slot
};

// Checks everything that needs the entry alone: kind, reserved fields, plan id, number of tensors.
// INVALID_ARGUMENT names the field, or the model and the number of inputs it takes. Afterwards
// entry.tensor_count == model.inputs.size() <= kMaxTensors.
Status check_entry(const ModelDescription& model, const SubmissionEntry& entry);

// Checks the descriptors (entry.tensor_count of them) against a slot of `slot_bytes` bytes and
// reads them into `inputs`. For a raw request, each byte size is the tensor's own; for a padded
// one, it is compared with the plan by check_padded(). INVALID_ARGUMENT names the input and the
// limit.
Status check_descriptors(const ModelDescription& model, const SubmissionEntry& entry,
                         std::span<const InputDescriptor> descriptors, std::uint64_t slot_bytes,
                         SubmittedInputs& inputs);

// Checks that a padded request is laid out by `plan` (null: the id is unknown): same signature,
// padded byte sizes. INVALID_ARGUMENT says what differs.
Status check_padded(const ModelDescription& model, const SubmissionEntry& entry, const Plan* plan,
                    const SubmittedInputs& inputs);

}  // namespace bucketd
