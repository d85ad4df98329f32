#include "libclient/completion_check.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

namespace bucketd::internal {
namespace {

tl::unexpected<Status> bad(const ModelDescription& model, const std::string& what) {
  return error(StatusCode::kInternal,
               "model '" + model.name + "': the worker's answer is damaged: " + what);
}

// A private copy of the record at `offset`, which the caller knows to lie inside of the slot.
template <typename Record>
Record copy_record(std::span<const std::byte> slot, std::size_t offset) {
  static_assert(std::is_trivially_copyable_v<Record>);
  Record record;
  std::memcpy(&record, slot.data() + offset, sizeof(record));
  return record;
}

std::string number(std::uint64_t value) { return std::to_string(value); }

std::uint64_t record_bytes(const CompletionEntry& entry, std::uint64_t plan_inputs) {
  std::uint64_t bytes = std::uint64_t{entry.output_count} * sizeof(OutputDescriptor);
  if ((entry.flags & kCompletionHasPlan) != 0) {
    bytes += sizeof(PlanRecord) + plan_inputs * sizeof(PlanInputRecord);
  }
  return bytes;
}

Result<OutputPlacement> check_output(const ModelDescription& model, std::size_t index,
                                     const OutputDescriptor& descriptor,
                                     std::uint64_t payload_begin, std::uint64_t slot_bytes) {
  const std::string where = "output " + number(index) + ": ";
  OutputPlacement output;
  output.dtype = model.outputs[index].dtype;
  if (descriptor.dtype != static_cast<std::uint8_t>(output.dtype)) {
    return bad(model, where + "dtype " + number(descriptor.dtype) + " where " +
                          std::string(dtype_name(output.dtype)) + " is expected");
  }
  if (descriptor.rank > kMaxRank) return bad(model, where + "rank " + number(descriptor.rank));
  const std::optional<Shape> shape = Shape::from({descriptor.dims, descriptor.rank});
  const std::optional<Shape> crop = Shape::from({descriptor.crop_dims, descriptor.rank});
  if (!shape || !crop) return bad(model, where + "a negative size");
  for (std::size_t d = 0; d < shape->rank(); ++d) {
    const std::int64_t start = descriptor.crop_start[d];
    if (start < 0 || start > (*shape)[d] || (*crop)[d] > (*shape)[d] - start) {
      return bad(model, where + "the cropped part leaves dimension " + number(d));
    }
    output.crop_start[d] = start;
  }
  const std::optional<std::uint64_t> bytes = shape->byte_size(output.dtype);
  if (!bytes || descriptor.byte_size != *bytes) {
    return bad(model,
               where + number(descriptor.byte_size) + " bytes for shape " + shape->to_string());
  }
  if (descriptor.offset % kTensorAlignment != 0 || descriptor.offset < payload_begin ||
      descriptor.offset > slot_bytes || *bytes > slot_bytes - descriptor.offset) {
    return bad(model, where + number(*bytes) + " bytes at offset " + number(descriptor.offset) +
                          " of a slot of " + number(slot_bytes) + " bytes");
  }
  output.shape = *shape;
  output.crop_shape = *crop;
  output.offset = descriptor.offset;
  return output;
}

// Checks one record of a plan. `usable` becomes false when it permutes or converts.
Result<PlanInput> check_plan_input(const ModelDescription& model, std::uint32_t bucket,
                                   std::size_t index, const PlanInputRecord& record,
                                   std::span<const TensorSignature> inputs, bool& usable) {
  const std::string where = "plan input " + number(index) + ": ";
  if (!is_known_dtype(record.dtype)) return bad(model, where + "dtype " + number(record.dtype));
  if (record.source >= inputs.size()) {
    return bad(model, where + "source " + number(record.source) + " of " + number(inputs.size()) +
                          " inputs");
  }
  const Shape& expected = model.buckets[bucket].inputs[index];
  if (record.rank > kMaxRank ||
      !std::ranges::equal(std::span(record.padded_dims, record.rank), expected.dims())) {
    return bad(model,
               where + "its shape is not bucket " + number(bucket) + "'s " + expected.to_string());
  }
  PlanInput input;
  input.padded = expected;
  input.fill_bits = record.fill_bits;
  const TensorSignature& source = inputs[record.source];
  if (record.source != index || record.dtype != static_cast<std::uint8_t>(source.dtype) ||
      source.shape.rank() != expected.rank()) {
    usable = false;
    return input;
  }
  for (std::size_t d = 0; d < expected.rank(); ++d) {
    const std::int64_t before = record.pad_before[d];
    if (before < 0 || before > expected[d] || source.shape[d] > expected[d] - before) {
      return bad(model, where + "the caller's data leaves dimension " + number(d));
    }
    input.pad_before[d] = before;
  }
  return input;
}

}  // namespace

Status check_success_entry(const ModelDescription& model, const CompletionEntry& entry,
                           std::uint64_t slot_bytes) {
  if (entry.bucket >= model.buckets.size()) {
    return bad(model, "bucket " + number(entry.bucket) + " of " + number(model.buckets.size()))
        .value();
  }
  if (entry.output_count != model.outputs.size()) {
    return bad(model, number(entry.output_count) + " outputs where " +
                          number(model.outputs.size()) + " are expected")
        .value();
  }
  if ((entry.flags & ~kCompletionHasPlan) != 0) {
    return bad(model, "unknown flags " + number(entry.flags)).value();
  }
  if (record_bytes(entry, model.inputs.size()) > slot_bytes) {
    return bad(model, "its descriptors are larger than the slot").value();
  }
  return Status();
}

Status read_outputs(const ModelDescription& model, const CompletionEntry& entry,
                    std::span<const std::byte> slot, std::vector<OutputPlacement>& outputs) {
  outputs.clear();
  const std::uint64_t payload_begin = record_bytes(entry, model.inputs.size());
  for (std::size_t i = 0; i < entry.output_count; ++i) {
    const auto descriptor = copy_record<OutputDescriptor>(slot, i * sizeof(OutputDescriptor));
    const Result<OutputPlacement> output =
        check_output(model, i, descriptor, payload_begin, slot.size());
    if (!output) return output.error();
    outputs.push_back(*output);
  }
  return Status();
}

Result<std::optional<Plan>> read_plan(const ModelDescription& model, const CompletionEntry& entry,
                                      std::span<const TensorSignature> inputs,
                                      std::span<const std::byte> slot) {
  std::size_t at = std::size_t{entry.output_count} * sizeof(OutputDescriptor);
  const auto record = copy_record<PlanRecord>(slot, at);
  at += sizeof(record);
  if (record.plan_id == 0) return bad(model, "a plan without an id");
  if (record.bucket >= model.buckets.size()) {
    return bad(model, "a plan for bucket " + number(record.bucket) + " of " +
                          number(model.buckets.size()));
  }
  if (record.input_count != model.inputs.size() || inputs.size() != model.inputs.size()) {
    return bad(model, "a plan of " + number(record.input_count) + " inputs where " +
                          number(model.inputs.size()) + " are expected");
  }
  Plan plan;
  plan.id = record.plan_id;
  plan.bucket = record.bucket;
  bool usable = true;
  for (std::size_t i = 0; i < record.input_count; ++i) {
    const auto input = copy_record<PlanInputRecord>(slot, at + i * sizeof(PlanInputRecord));
    Result<PlanInput> checked = check_plan_input(model, record.bucket, i, input, inputs, usable);
    if (!checked) return error(checked.error());
    plan.inputs.push_back(*checked);
  }
  if (!usable) return std::nullopt;
  return plan;
}

Result<Status> read_failure(const ModelDescription& model, const CompletionEntry& entry,
                            std::span<const std::byte> slot) {
  if (entry.message_bytes > kMaxMessageBytes || entry.message_bytes > slot.size()) {
    return bad(model, "an error text of " + number(entry.message_bytes) + " bytes");
  }
  std::string text(entry.message_bytes, '\0');
  std::memcpy(text.data(), slot.data(), text.size());
  // What a terminal would obey is not for it to say.
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  const StatusCode code = is_known_status_code(entry.status) ? static_cast<StatusCode>(entry.status)
                                                             : StatusCode::kUnknown;
  return Status(code, std::move(text));
}

}  // namespace bucketd::internal
