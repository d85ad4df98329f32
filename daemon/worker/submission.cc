#include "daemon/worker/submission.h"

#include <algorithm>
#include <string>

namespace bucketd {
namespace {

Status invalid(std::string text) { return Status(StatusCode::kInvalidArgument, std::move(text)); }

std::string input_text(const ModelDescription& model, std::size_t input) {
  return "model '" + model.name + "', input " + std::to_string(input) + " '" +
         model.inputs[input].name + "'";
}

Status check_descriptor(const ModelDescription& model, std::size_t input, bool is_raw,
                        const InputDescriptor& descriptor, std::uint64_t first_offset,
                        std::uint64_t slot_bytes, TensorSignature& signature) {
  if (descriptor.reserved0 != 0 || descriptor.reserved1 != 0) {
    return invalid(input_text(model, input) + ": a reserved field of its descriptor is not zero");
  }
  if (!is_known_dtype(descriptor.dtype)) {
    return invalid(input_text(model, input) + ": dtype number " + std::to_string(descriptor.dtype) +
                   " is unknown");
  }
  if (descriptor.rank > kMaxRank) {
    return invalid(input_text(model, input) + ": rank " + std::to_string(descriptor.rank) +
                   " is above " + std::to_string(kMaxRank));
  }
  const std::optional<Shape> shape =
      Shape::from(std::span<const std::int64_t>(descriptor.dims, descriptor.rank));
  if (!shape) return invalid(input_text(model, input) + ": a dimension has a negative size");
  const auto dtype = static_cast<DType>(descriptor.dtype);
  const std::optional<std::uint64_t> bytes = shape->byte_size(dtype);
  if (!bytes) {
    return invalid(input_text(model, input) + ": the sizes " + shape->to_string() + " overflow");
  }
  if (is_raw && descriptor.byte_size != *bytes) {
    return invalid(input_text(model, input) + ": " + std::to_string(descriptor.byte_size) +
                   " bytes where shape " + shape->to_string() + " of " +
                   std::string(dtype_name(dtype)) + " has " + std::to_string(*bytes));
  }
  if (descriptor.offset % kTensorAlignment != 0) {
    return invalid(input_text(model, input) + ": offset " + std::to_string(descriptor.offset) +
                   " is no multiple of " + std::to_string(kTensorAlignment));
  }
  // Subtractions, in this order, cannot wrap.
  if (descriptor.offset < first_offset || descriptor.offset > slot_bytes ||
      descriptor.byte_size > slot_bytes - descriptor.offset) {
    return invalid(input_text(model, input) + ": " + std::to_string(descriptor.byte_size) +
                   " bytes at offset " + std::to_string(descriptor.offset) +
                   " are not within the slot's " + std::to_string(first_offset) + " to " +
                   std::to_string(slot_bytes));
  }
  signature = {dtype, *shape};
  return Status();
}

}  // namespace

Status check_entry(const ModelDescription& model, const SubmissionEntry& entry) {
  if (entry.kind > static_cast<std::uint8_t>(SubmissionKind::kPadded)) {
    return invalid("a submission of kind " + std::to_string(entry.kind) +
                   "; known are 0 (raw) and 1 (padded)");
  }
  if (entry.reserved0 != 0 || entry.reserved1[0] != 0 || entry.reserved1[1] != 0 ||
      entry.reserved1[2] != 0) {
    return invalid("a reserved field of the submission is not zero");
  }
  const bool is_raw = entry.kind == static_cast<std::uint8_t>(SubmissionKind::kRaw);
  if (is_raw != (entry.plan_id == 0)) {
    return invalid(is_raw ? "a raw submission names plan " + std::to_string(entry.plan_id)
                          : "a padded submission names no plan");
  }
  if (entry.tensor_count != model.inputs.size()) {
    return invalid("model '" + model.name + "' takes " + std::to_string(model.inputs.size()) +
                   " inputs, the request has " + std::to_string(entry.tensor_count));
  }
  return Status();
}

Status check_descriptors(const ModelDescription& model, const SubmissionEntry& entry,
                         std::span<const InputDescriptor> descriptors, std::uint64_t slot_bytes,
                         SubmittedInputs& inputs) {
  const bool is_raw = entry.kind == static_cast<std::uint8_t>(SubmissionKind::kRaw);
  const std::uint64_t first_offset = input_payload_offset(descriptors.size());
  if (slot_bytes < first_offset) {
    return invalid("model '" + model.name + "': the request ends within its " +
                   std::to_string(descriptors.size()) + " input descriptors");
  }
  std::uint64_t total_bytes = 0;
  inputs.signatures.resize(descriptors.size());
  inputs.offsets.resize(descriptors.size());
  inputs.byte_sizes.resize(descriptors.size());
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    if (Status status = check_descriptor(model, i, is_raw, descriptors[i], first_offset, slot_bytes,
                                         inputs.signatures[i]);
        !status.ok()) {
      return status;
    }
    inputs.offsets[i] = descriptors[i].offset;
    inputs.byte_sizes[i] = descriptors[i].byte_size;
    // Each lies within the slot: 64 of them cannot overflow.
    total_bytes += descriptors[i].byte_size;
  }
  if (total_bytes > slot_bytes - first_offset) {
    // Else the copies of tensors that overlap would be many times the slot.
    return invalid("model '" + model.name + "': inputs of " + std::to_string(total_bytes) +
                   " bytes together in a slot that has room for " +
                   std::to_string(slot_bytes - first_offset) + ": they overlap");
  }
  return Status();
}

Status check_padded(const ModelDescription& model, const SubmissionEntry& entry, const Plan* plan,
                    const SubmittedInputs& inputs) {
  if (plan == nullptr) {
    return invalid("model '" + model.name + "': this lane has no plan " +
                   std::to_string(entry.plan_id));
  }
  for (std::size_t i = 0; i < inputs.signatures.size(); ++i) {
    if (inputs.signatures[i] != plan->signature[i]) {
      return invalid(
          input_text(model, i) + ": " + std::string(dtype_name(inputs.signatures[i].dtype)) + " " +
          inputs.signatures[i].shape.to_string() + " where plan " + std::to_string(plan->id) +
          " is for " + std::string(dtype_name(plan->signature[i].dtype)) + " " +
          plan->signature[i].shape.to_string());
    }
  }
  for (const PlanInput& input : plan->inputs) {
    if (inputs.byte_sizes[input.source] != input.padded_bytes) {
      return invalid(input_text(model, input.source) + ": " +
                     std::to_string(inputs.byte_sizes[input.source]) + " bytes where plan " +
                     std::to_string(plan->id) + " lays it out in " +
                     std::to_string(input.padded_bytes));
    }
  }
  return Status();
}

}  // namespace bucketd
