#include "libclient/testing/echo_model.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "libclient/request_layout.h"

namespace bucketd::testing {
namespace {

[[noreturn]] void abort_with(const std::string& what) {
  std::cerr << "the client submitted what no sound client does: " << what << "\n";
  std::abort();
}

std::vector<InputDescriptor> descriptors_of(const Submission& submission) {
  std::vector<InputDescriptor> descriptors(submission.entry.tensor_count);
  if (submission.slot.size() < descriptors.size() * sizeof(InputDescriptor)) {
    abort_with("no room for its descriptors");
  }
  std::memcpy(descriptors.data(), submission.slot.data(),
              descriptors.size() * sizeof(InputDescriptor));
  return descriptors;
}

std::uint64_t fill_bits(std::size_t input) {
  return input == 0 ? std::bit_cast<std::uint64_t>(kIdFill)
                    : std::bit_cast<std::uint32_t>(kScoreFill);
}

// The padded tensor of one input.
std::vector<std::byte> padded(const ModelDescription& model, const Submission& submission,
                              std::size_t index, const InputDescriptor& descriptor,
                              std::size_t bucket) {
  const Shape& shape = model.buckets[bucket].inputs[index];
  const DType dtype = model.inputs[index].dtype;
  std::vector<std::byte> tensor(*shape.byte_size(dtype));
  if (descriptor.offset % kTensorAlignment != 0 ||
      descriptor.offset + descriptor.byte_size > submission.slot.size()) {
    abort_with("a tensor outside of its slot");
  }
  const std::byte* const data = submission.slot.data() + descriptor.offset;
  if (submission.entry.kind == static_cast<std::uint8_t>(SubmissionKind::kPadded)) {
    if (descriptor.byte_size != tensor.size()) abort_with("a padded tensor of the wrong size");
    std::memcpy(tensor.data(), data, tensor.size());
    return tensor;
  }
  const std::size_t element = dtype_size_bytes(dtype);
  const std::uint64_t fill = fill_bits(index);
  for (std::size_t at = 0; at < tensor.size(); at += element) {
    std::memcpy(tensor.data() + at, &fill, element);
  }
  const std::size_t before =
      index == 0 ? 0 : static_cast<std::size_t>(shape[1] - descriptor.dims[1]) * element;
  std::memcpy(tensor.data() + before, data, descriptor.byte_size);
  return tensor;
}

template <typename Record>
void append(std::vector<std::byte>& slot, const Record& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1));
  slot.insert(slot.end(), bytes.begin(), bytes.end());
}

}  // namespace

ModelDescription echo_model(const std::string& name) {
  ModelDescription model;
  model.name = name;
  model.backend = "fake";
  model.inputs = {{"ids", DType::kInt64}, {"scores", DType::kFloat32}};
  model.outputs = {{"ids", DType::kInt64}, {"scores", DType::kFloat32}};
  for (const std::int64_t size : {kSmallBucket, kLargeBucket}) {
    model.buckets.push_back({{{1, size}, {1, size}}, {{1, size}, {1, size}}, {}});
  }
  model.crop = {{0, 1, 0, 1, PadSide::kRight, 1, 1}, {1, 1, 1, 1, PadSide::kLeft, 1, 1}};
  model.kernel = KernelKind::kPad;
  model.pad = {
      {{1}, {1}}, {static_cast<double>(kIdFill), kScoreFill}, {PadSide::kRight, PadSide::kLeft}};
  model.accepted = {{{1, 1}, {1, kLargeBucket}}, {{1, 1}, {1, kLargeBucket}}};
  return model;
}

std::vector<TensorSignature> signature_of(const Submission& submission) {
  std::vector<TensorSignature> signature;
  for (const InputDescriptor& descriptor : descriptors_of(submission)) {
    const std::optional<Shape> shape = Shape::from({descriptor.dims, descriptor.rank});
    if (!shape) abort_with("a negative size");
    signature.push_back({static_cast<DType>(descriptor.dtype), *shape});
  }
  return signature;
}

Answer refusal(const Submission& submission, const Status& status) {
  Answer answer;
  answer.entry.user_data = submission.entry.user_data;
  answer.entry.slot = submission.entry.slot;
  answer.entry.status = static_cast<std::uint32_t>(status.code());
  answer.entry.bucket = kNoBucket;
  answer.entry.message_bytes = static_cast<std::uint32_t>(status.message().size());
  const auto text = std::as_bytes(std::span(status.message()));
  answer.slot.assign(text.begin(), text.end());
  return answer;
}

Answer echo(const ModelDescription& model, const Submission& submission, std::uint32_t plan_id) {
  Answer answer;
  answer.entry.user_data = submission.entry.user_data;
  answer.entry.slot = submission.entry.slot;
  const std::vector<TensorSignature> signature = signature_of(submission);
  if (const Status status = check_inputs(model, signature); !status.ok()) {
    return refusal(submission, status);
  }
  const std::int64_t longest = std::max(signature[0].shape[1], signature[1].shape[1]);
  const std::size_t bucket = longest <= kSmallBucket ? 0 : 1;
  const bool is_raw = submission.entry.kind == static_cast<std::uint8_t>(SubmissionKind::kRaw);
  const bool has_plan = is_raw && plan_id != 0;
  answer.entry.bucket = static_cast<std::uint32_t>(bucket);
  answer.entry.output_count = static_cast<std::uint16_t>(model.outputs.size());
  answer.entry.flags = has_plan ? kCompletionHasPlan : 0;
  answer.entry.plan_id = has_plan ? plan_id : submission.entry.plan_id;
  answer.entry.queue_ns = 1000;
  answer.entry.execute_ns = 2000;

  const std::vector<InputDescriptor> inputs = descriptors_of(submission);
  std::vector<std::vector<std::byte>> tensors;
  std::uint64_t offset = output_payload_offset(model.outputs.size(), model.inputs.size());
  for (std::size_t i = 0; i < model.outputs.size(); ++i) {
    tensors.push_back(padded(model, submission, i, inputs[i], bucket));
    OutputDescriptor descriptor{};
    descriptor.dtype = static_cast<std::uint8_t>(model.outputs[i].dtype);
    descriptor.rank = 2;
    descriptor.offset = offset;
    descriptor.byte_size = tensors.back().size();
    const CroppedShape cropped = crop_output(model, bucket, i, signature);
    for (std::size_t d = 0; d < 2; ++d) {
      descriptor.dims[d] = model.buckets[bucket].outputs[i][d];
      descriptor.crop_start[d] = cropped.start[d];
      descriptor.crop_dims[d] = cropped.shape[d];
    }
    append(answer.slot, descriptor);
    offset = *align_up(offset + tensors.back().size(), kTensorAlignment);
  }
  if (has_plan) {
    append(answer.slot, PlanRecord{plan_id, static_cast<std::uint32_t>(bucket),
                                   static_cast<std::uint32_t>(model.inputs.size()), 0});
    for (std::size_t i = 0; i < model.inputs.size(); ++i) {
      PlanInputRecord record{};
      record.dtype = static_cast<std::uint8_t>(model.inputs[i].dtype);
      record.rank = 2;
      record.source = static_cast<std::uint16_t>(i);
      record.fill_bits = fill_bits(i);
      for (std::size_t d = 0; d < 2; ++d) {
        record.padded_dims[d] = model.buckets[bucket].inputs[i][d];
      }
      if (i == 1) record.pad_before[1] = record.padded_dims[1] - signature[1].shape[1];
      append(answer.slot, record);
    }
  }
  answer.slot.resize(offset);
  offset = output_payload_offset(model.outputs.size(), model.inputs.size());
  for (const std::vector<std::byte>& tensor : tensors) {
    std::memcpy(answer.slot.data() + offset, tensor.data(), tensor.size());
    offset = *align_up(offset + tensor.size(), kTensorAlignment);
  }
  return answer;
}

}  // namespace bucketd::testing
