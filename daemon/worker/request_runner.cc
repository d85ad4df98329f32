#include "daemon/worker/request_runner.h"

#include <cstring>
#include <string>

#include "common/monotonic_clock.h"
#include "daemon/plans/padding.h"
#include "daemon/plans/plan.h"
#include "daemon/worker/answer.h"
#include "daemon/worker/read_once.h"

namespace bucketd {
namespace {

std::string model_text(const ModelDescription& model) { return "model '" + model.name + "'"; }

bool is_raw(const SubmissionEntry& entry) {
  return entry.kind == static_cast<std::uint8_t>(SubmissionKind::kRaw);
}

template <typename Dims>
void copy_dims(Dims& to, std::span<const std::int64_t> from) {
  std::memcpy(to, from.data(), from.size_bytes());
}

// Returns where it ends.
std::byte* write_plan(const Plan& plan, std::byte* at) {
  const PlanRecord record{plan.id, plan.bucket, static_cast<std::uint32_t>(plan.inputs.size()), 0};
  std::memcpy(at, &record, sizeof(record));
  at += sizeof(record);
  for (const PlanInput& input : plan.inputs) {
    PlanInputRecord layout{};
    layout.dtype = static_cast<std::uint8_t>(input.dtype);
    layout.rank = static_cast<std::uint8_t>(input.padded.rank());
    layout.source = input.source;
    layout.fill_bits = input.fill_bits;
    copy_dims(layout.padded_dims, input.padded.dims());
    copy_dims(layout.pad_before, std::span(input.pad_before).first(input.padded.rank()));
    std::memcpy(at, &layout, sizeof(layout));
    at += sizeof(layout);
  }
  return at;
}

}  // namespace

void RequestRunner::run(const Job& job) {
  Lane& lane = *job.lane;
  CompletionEntry completion = make_completion(job.entry);
  const std::uint64_t started_ns = monotonic_ns();
  completion.queue_ns = started_ns - job.taken_ns;
  if (job.entry.deadline_ns != 0 && job.entry.deadline_ns <= started_ns) {
    status_.count(executor_, false);
    answer_error(lane, completion,
                 Status(StatusCode::kDeadlineExceeded,
                        model_text(lane.model().description()) +
                            ": the deadline passed before the request could start"));
    return;
  }
  status_.begin(executor_,
                {.model_id = lane.model().id,
                 .lane_id = lane.id(),
                 .channel_id = lane.channel().id(),
                 .user_data = job.entry.user_data,
                 .session_handle = job.entry.session_handle,
                 .started_ns = started_ns},
                kNoBucket);
  const Result<std::uint64_t> output_bytes = execute(job, completion);
  completion.finished_ns = monotonic_ns();
  completion.execute_ns = completion.finished_ns - started_ns;
  // Counted before it is answered: who has its answer finds it counted.
  status_.count(executor_, output_bytes.has_value());
  if (output_bytes) {
    lane.model().note_execution(completion.bucket, completion.execute_ns);
    lane.complete(completion, *output_bytes);
  } else {
    answer_error(lane, completion, output_bytes.error());
  }
  // Ended after the answer: a request that may have changed state is never taken for one that was
  // not started.
  status_.end(executor_);
}

Result<std::uint64_t> RequestRunner::execute(const Job& job, CompletionEntry& completion) {
  Lane& lane = *job.lane;
  const ModelDescription& model = lane.model().description();
  const std::span<std::byte> output = lane.output(job.entry.slot);
  if (output.empty()) {
    return error(StatusCode::kResourceExhausted, model_text(model) + ": no memory for the outputs");
  }
  if (Status status = read_inputs(lane, job.entry); !status.ok()) return error(std::move(status));
  if (Status status = check_session(job); !status.ok()) return error(std::move(status));
  if (job.session != nullptr && job.session->record != nullptr) {
    job.session->record->count_request(job.taken_ns + completion.queue_ns);  // as it began
  }
  const Plan* plan = nullptr;
  Result<std::unique_ptr<PreparedInputs>> prepared = prepare(lane, job.entry, plan);
  if (!prepared) return error(std::move(prepared.error()));
  const std::size_t bucket = (*prepared)->bucket();
  if (bucket >= model.buckets.size()) {
    return error(StatusCode::kInternal, model_text(model) + ": the kernel chose bucket " +
                                            std::to_string(bucket) + " of " +
                                            std::to_string(model.buckets.size()));
  }
  status_.set_bucket(executor_, static_cast<std::uint32_t>(bucket));
  const std::uint64_t output_bytes = place_outputs(model, bucket, output);
  BoundStates* states = job.session != nullptr ? job.session->bound.get() : nullptr;
  StateTraffic traffic;
  Status status = lane.model().model->execute(executor_, **prepared, states, outputs_, traffic);
  status_.count_traffic(executor_, traffic);
  if (!status.ok()) return error(std::move(status));
  // A plan that the cache had no room for has no id that would mean anything later; one that does
  // more than pad is of no use to the client.
  if (plan != nullptr && (plan->id == 0 || !plan->is_padding)) plan = nullptr;
  describe_outputs(model, bucket, is_raw(job.entry) ? plan : nullptr, output_bytes, output);
  completion.status = static_cast<std::uint32_t>(StatusCode::kOk);
  completion.bucket = static_cast<std::uint32_t>(bucket);
  completion.plan_id = plan != nullptr ? plan->id : 0;
  completion.output_count = static_cast<std::uint16_t>(model.outputs.size());
  completion.flags = plan != nullptr && is_raw(job.entry) ? kCompletionHasPlan : 0;
  return output_bytes;
}

Status RequestRunner::read_inputs(Lane& lane, const SubmissionEntry& entry) {
  const ModelDescription& model = lane.model().description();
  if (Status status = check_entry(model, entry); !status.ok()) return status;
  const std::span<const std::byte> slot = lane.input(entry.slot);
  // A ring's slot always holds them; a frame need not.
  if (slot.size() < entry.tensor_count * sizeof(InputDescriptor)) {
    return Status(StatusCode::kInvalidArgument,
                  model_text(model) + ": the request ends within its " +
                      std::to_string(entry.tensor_count) + " input descriptors");
  }
  descriptors_.resize(entry.tensor_count);
  for (std::size_t i = 0; i < descriptors_.size(); ++i) {
    read_once(descriptors_[i], slot.data() + i * sizeof(InputDescriptor));
  }
  return check_descriptors(model, entry, descriptors_, slot.size(), inputs_);
}

Status RequestRunner::check_session(const Job& job) const {
  const ModelDescription& model = job.lane->model().description();
  if (job.entry.session_handle == 0) {
    if (model.states.empty()) return Status();
    return Status(StatusCode::kFailedPrecondition,
                  model_text(model) + " holds state: the request needs a session of this model");
  }
  if (model.states.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  model_text(model) + " holds no state: the request must not name a session");
  }
  if (job.session == nullptr) {
    return Status(StatusCode::kNotFound, model_text(model) + ": this connection has no session " +
                                             std::to_string(job.entry.session_handle));
  }
  if (job.session->model.get() != &job.lane->model()) {
    return Status(StatusCode::kInvalidArgument,
                  "session " + std::to_string(job.entry.session_handle) + " is one of " +
                      model_text(job.session->model->description()) + ", not of " +
                      model_text(model));
  }
  if (job.session->bound == nullptr) {
    return Status(StatusCode::kUnavailable,
                  model_text(model) + ": session " + std::to_string(job.entry.session_handle) +
                      " is not bound yet; requests are taken once it is open");
  }
  return Status();
}

Result<std::unique_ptr<PreparedInputs>> RequestRunner::prepare(Lane& lane,
                                                               const SubmissionEntry& entry,
                                                               const Plan*& plan) {
  BucketModel& backend_model = *lane.model().model;
  const ModelDescription& model = lane.model().description();
  if (!is_raw(entry)) {
    plan = lane.plans().find(entry.plan_id);
    if (plan != nullptr && !plan->is_padding) plan = nullptr;  // nobody was told of it
    if (Status status = check_padded(model, entry, plan, inputs_); !status.ok()) {
      return error(std::move(status));
    }
  } else if (model.kernel == KernelKind::kPad) {
    Result<const Plan*> found = find_plan(lane);
    if (!found) return error(std::move(found.error()));
    plan = *found;
  } else {
    Result<const Plan*> found = find_authors_plan(lane);
    if (!found) return error(std::move(found.error()));
    plan = *found;
  }
  if (Status status = copy_inputs(lane, entry.slot, plan, is_raw(entry)); !status.ok()) {
    return error(std::move(status));
  }
  return plan != nullptr ? backend_model.wrap(executor_, plan->bucket, views_)
                         : backend_model.run_kernel(executor_, views_);
}

Result<const Plan*> RequestRunner::find_plan(Lane& lane) {
  if (const Plan* found = lane.plans().find(inputs_.signatures)) return found;
  const ModelDescription& model = lane.model().description();
  if (Status status = check_inputs(model, inputs_.signatures); !status.ok()) {
    return error(std::move(status));
  }
  if (Status status = make_plan(model, inputs_.signatures, scratch_plan_); !status.ok()) {
    return error(std::move(status));
  }
  const Plan* kept = lane.plans().insert(scratch_plan_);
  return kept != nullptr ? kept : &scratch_plan_;
}

Result<const Plan*> RequestRunner::find_authors_plan(Lane& lane) {
  PlanCache& plans = lane.plans();
  const PlanCache::Known known = plans.look_up(inputs_.signatures);
  if (known.is_known) return known.plan;
  const ModelDescription& model = lane.model().description();
  if (Status status = check_inputs(model, inputs_.signatures); !status.ok()) {
    return error(std::move(status));
  }
  const bool has_plans = model.planning.kind == KernelPlanning::kPlanned ||
                         model.planning.kind == KernelPlanning::kPartly;
  // Making a plan takes longer than running the kernel: only what is kept is made.
  if (!has_plans || plans.is_full()) return nullptr;
  if (lane.model().model->plan(inputs_.signatures, scratch_plan_).ok()) {
    return plans.insert(scratch_plan_);
  }
  plans.insert_unplanned(inputs_.signatures);
  return nullptr;
}

// Fills views_ with private tensors: padded by `plan` if `pad`, laid out by it if not, as the
// caller has them without a plan.
Status RequestRunner::copy_inputs(Lane& lane, std::uint32_t slot, const Plan* plan, bool pad) {
  const ModelDescription& model = lane.model().description();
  const std::span<const std::byte> source = lane.input(slot);
  const std::size_t count = plan != nullptr ? plan->inputs.size() : inputs_.signatures.size();
  std::uint64_t bytes = 0;
  if (plan != nullptr) {
    bytes = plan->private_bytes;
  } else {
    // Each lies within the slot; 64 of them cannot overflow.
    for (const std::uint64_t size : inputs_.byte_sizes) {
      bytes += *align_up(size, kTensorAlignment);
    }
  }
  std::byte* memory = memory_.reserve(std::max<std::uint64_t>(bytes, kTensorAlignment));
  if (memory == nullptr) {
    return Status(StatusCode::kResourceExhausted, model_text(model) + ": no memory for inputs of " +
                                                      std::to_string(bytes) + " bytes");
  }
  views_.resize(count);
  if (plan != nullptr && !plan->is_padding) {
    sources_.resize(inputs_.signatures.size());
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      sources_[i] = source.data() + inputs_.offsets[i];
    }
    lay_out(*plan, sources_, memory);
    for (std::size_t i = 0; i < count; ++i) {
      const PlanInput& input = plan->inputs[i];
      views_[i] = {input.dtype, input.padded, memory + input.offset};
    }
    return Status();
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t input = plan != nullptr ? plan->inputs[i].source : i;
    const TensorSignature& signature = inputs_.signatures[input];
    const std::byte* from = source.data() + inputs_.offsets[input];
    ConstTensorView& view = views_[i];
    view.dtype = signature.dtype;
    view.shape = plan != nullptr ? plan->inputs[i].padded : signature.shape;
    const bool has_view_shape = !pad || plan == nullptr || signature.shape == view.shape;
    // It was copied on its way here, or does no harm when the client changes it meanwhile.
    const bool may_stay =
        lane.is_private_input()
            ? signature.dtype != DType::kBool
            : plan != nullptr && i < model.input_uses.size() && model.input_uses[i].in_place;
    if (may_stay && has_view_shape) {
      view.data = from;
      continue;
    }
    view.data = memory;
    if (plan != nullptr && pad) {
      copy_padded(memory, from, signature.shape, plan->inputs[i]);
      memory += *align_up(plan->inputs[i].padded_bytes, kTensorAlignment);
    } else {
      copy_elements(signature.dtype, memory, from, inputs_.byte_sizes[input]);
      memory += *align_up(inputs_.byte_sizes[input], kTensorAlignment);
    }
  }
  return Status();
}

std::uint64_t RequestRunner::place_outputs(const ModelDescription& model, std::size_t bucket,
                                           std::span<std::byte> output) {
  // The lane was refused unless its output slots hold the largest bucket's outputs.
  std::uint64_t offset = output_payload_offset(model.outputs.size(), model.inputs.size());
  outputs_.resize(model.outputs.size());
  for (std::size_t o = 0; o < model.outputs.size(); ++o) {
    const Shape& shape = model.buckets[bucket].outputs[o];
    const DType dtype = model.outputs[o].dtype;
    outputs_[o] = {dtype, shape, output.data() + offset};
    offset += *align_up(*shape.byte_size(dtype), kTensorAlignment);
  }
  return offset;
}

void RequestRunner::describe_outputs(const ModelDescription& model, std::size_t bucket,
                                     const Plan* plan, std::uint64_t output_bytes,
                                     std::span<std::byte> output) const {
  std::byte* at = output.data();
  for (std::size_t o = 0; o < outputs_.size(); ++o) {
    const CroppedShape cropped = crop_output(model, bucket, o, inputs_.signatures);
    OutputDescriptor descriptor{};
    descriptor.dtype = static_cast<std::uint8_t>(outputs_[o].dtype);
    descriptor.rank = static_cast<std::uint8_t>(outputs_[o].shape.rank());
    descriptor.offset = static_cast<std::uint64_t>(outputs_[o].data - output.data());
    descriptor.byte_size = *outputs_[o].shape.byte_size(outputs_[o].dtype);
    copy_dims(descriptor.dims, outputs_[o].shape.dims());
    copy_dims(descriptor.crop_start, std::span(cropped.start).first(outputs_[o].shape.rank()));
    copy_dims(descriptor.crop_dims, cropped.shape.dims());
    std::memcpy(at, &descriptor, sizeof(descriptor));
    at += sizeof(descriptor);
  }
  if (plan != nullptr) at = write_plan(*plan, at);
  // A stream sends the whole area: what lies between must not be what others left in this memory.
  for (const TensorView& tensor : outputs_) {
    std::memset(at, 0, static_cast<std::size_t>(tensor.data - at));
    at = tensor.data + *tensor.shape.byte_size(tensor.dtype);
  }
  std::memset(at, 0, static_cast<std::size_t>(output.data() + output_bytes - at));
}

}  // namespace bucketd
