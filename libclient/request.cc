// Request, Future and Reply: the three lives of an InFlight.
#include <cassert>
#include <cstring>
#include <utility>

#include "bucketd/client.h"
#include "libclient/channel.h"
#include "libclient/completion_check.h"
#include "libclient/lane.h"
#include "libclient/model_lane.h"
#include "libclient/session_state.h"

namespace bucketd {

using internal::InFlight;
using internal::InFlightHandle;
using internal::Lane;
using internal::SlotState;

namespace internal {

void ReleaseInFlight::operator()(InFlight* request) const noexcept {
  Channel& channel = request->lane->channel();
  // In a forked child it is the parent's: neither the slot nor the lane may be touched.
  if (channel.generation() != fork_generation()) return;
  channel.release(*request);
}

namespace {

std::span<const std::byte> output_bytes(const InFlight& request) {
  return {request.lane->output_slot(request.slot), request.output_bytes};
}

void write_descriptors(InFlight& request) {
  std::byte* const slot = request.lane->input_slot(request.slot);
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const InputPlacement& placement = request.inputs[i];
    InputDescriptor descriptor{};
    descriptor.dtype = static_cast<std::uint8_t>(placement.signature.dtype);
    descriptor.rank = static_cast<std::uint8_t>(placement.signature.shape.rank());
    descriptor.offset = placement.offset;
    descriptor.byte_size = placement.byte_size;
    for (std::size_t d = 0; d < placement.signature.shape.rank(); ++d) {
      descriptor.dims[d] = placement.signature.shape[d];
    }
    std::memcpy(slot + i * sizeof(descriptor), &descriptor, sizeof(descriptor));
  }
}

// Reads a success into the InFlight; the channel is closed when it is nonsense.
Status take_outputs(InFlight& request) {
  const ModelDescription& model = request.lane->model();
  const CompletionEntry& entry = request.completion;
  Status status = read_outputs(model, entry, output_bytes(request), request.outputs);
  if (status.ok() && (entry.flags & kCompletionHasPlan) != 0) {
    Result<std::optional<Plan>> plan =
        read_plan(model, entry, request.signature, output_bytes(request));
    if (!plan) {
      status = plan.error();
    } else if (*plan) {
      request.lane->channel().remember_plan(request, std::move(*plan));
    }
  }
  if (!status.ok()) request.lane->channel().condemn(status);
  return status;
}

Status take_failure(InFlight& request) {
  if (request.state.load(std::memory_order_relaxed) == SlotState::kFailed) return request.failure;
  const Result<Status> failure =
      read_failure(request.lane->model(), request.completion, output_bytes(request));
  if (!failure) {
    request.lane->channel().condemn(failure.error());
    return failure.error();
  }
  // The worker may know the plan no more: the next request of this signature is raw, and hears.
  if (request.plan != nullptr) request.lane->channel().remember_plan(request, std::nullopt);
  return *failure;
}

// The session may have got another handle since the slot was taken, or have ended.
Status renew_session(InFlight& request) {
  if (!request.has_session) return Status();
  const std::shared_ptr<SessionState> session = request.session.lock();
  if (session == nullptr) return SessionState::handle_is_gone();
  const Result<std::uint64_t> handle =
      session->handle_on(*request.lane, request.deadline.value_or(session->default_deadline()));
  if (!handle) return handle.error();
  request.session_handle = *handle;
  return Status();
}

RawTensorSpan output_view(const InFlight& request, std::size_t index, bool is_cropped) {
  assert(index < request.outputs.size());
  const OutputPlacement& output = request.outputs[index];
  RawTensorSpan view;
  view.dtype = output.dtype;
  view.shape = is_cropped ? output.crop_shape : output.shape;
  view.byte_strides = contiguous_byte_strides(output.shape, output.dtype);
  std::uint64_t offset = output.offset;
  if (is_cropped && view.shape.element_count().value_or(0) > 0) {
    for (std::size_t d = 0; d < output.shape.rank(); ++d) {
      offset += static_cast<std::uint64_t>(output.crop_start[d] * view.byte_strides[d]);
    }
  }
  // RawTensorSpan serves inputs too. The map is read-only whatever the pointer says.
  view.data = const_cast<std::byte*>(request.lane->output_slot(request.slot)) + offset;
  return view;
}

}  // namespace
}  // namespace internal

Request::Request(InFlightHandle request) : request_(std::move(request)) {}
Request::Request(Request&&) noexcept = default;
Request& Request::operator=(Request&&) noexcept = default;
Request::~Request() = default;

RawTensorSpan Request::raw_input(std::size_t index) {
  assert(index < request_->inputs.size());
  return internal::placed_view(request_->inputs[index], request_->lane->input_slot(request_->slot));
}

void Request::set_deadline(Deadline deadline) { request_->deadline = deadline; }

void Request::set_priority(std::uint8_t priority) { request_->priority = priority; }

bool Request::is_padded() const { return request_->plan != nullptr; }

Result<Future> Request::submit() && {
  if (request_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, "the request was submitted already");
  }
  InFlightHandle request = std::move(request_);
  while (true) {
    Lane& lane = *request->lane;
    lane.look_before_submission();
    Status status;
    if (lane.is_closed()) {
      status = lane.gone();
    } else {
      status = internal::renew_session(*request);
      if (!status.ok() && !lane.is_closed()) return error(std::move(status));
      if (status.ok()) {
        internal::write_descriptors(*request);
        status = lane.channel().submit(*request);
      }
      if (status.ok()) return Future(std::move(request));
    }
    // The lane ended before the request was sent: the next one takes it.
    const std::shared_ptr<internal::ModelLane> owner = lane.owner.lock();
    if (owner == nullptr) return error(std::move(status));
    const Result<InFlight*> moved = owner->move_request(*request);
    if (!moved) return error(moved.error());
    request.reset(*moved);
  }
}

Result<Reply> Request::run() && {
  const Deadline deadline = request_ == nullptr ? std::nullopt : request_->deadline;
  Result<Future> future = std::move(*this).submit();
  if (!future) return error(future.error());
  return future->wait(deadline);
}

Future::Future(InFlightHandle request) : request_(std::move(request)) {}
Future::Future(Future&&) noexcept = default;
Future& Future::operator=(Future&&) noexcept = default;
Future::~Future() = default;

bool Future::ready() {
  if (!request_->is_over()) request_->lane->channel().collect();
  return request_->is_over();
}

Result<Reply> Future::wait(Deadline deadline) {
  if (request_ == nullptr) {
    return error(StatusCode::kFailedPrecondition, "the answer of this future was taken already");
  }
  if (!request_->lane->channel().wait(*request_, deadline)) {
    return error(StatusCode::kDeadlineExceeded,
                 "model '" + request_->lane->model().name + "': no answer by the deadline");
  }
  InFlightHandle request = std::move(request_);
  const bool is_success = request->state.load(std::memory_order_relaxed) == SlotState::kDone &&
                          request->completion.status == static_cast<std::uint32_t>(StatusCode::kOk);
  if (!is_success) {
    Status failure = internal::take_failure(*request);
    const std::shared_ptr<internal::SessionState> session = request->session.lock();
    if (failure.code() != StatusCode::kNotFound || session == nullptr) {
      return error(std::move(failure));
    }
    const std::uint64_t handle = request->session_handle;
    request.reset();  // before the daemon is asked: others may want the slot
    return error(session->explain(failure, handle));
  }
  if (Status status = internal::take_outputs(*request); !status.ok()) {
    return error(std::move(status));
  }
  return Reply(std::move(request));
}

Reply::Reply(InFlightHandle request) : request_(std::move(request)) {}
Reply::Reply(Reply&&) noexcept = default;
Reply& Reply::operator=(Reply&&) noexcept = default;
Reply::~Reply() = default;

std::size_t Reply::output_count() const { return request_->outputs.size(); }

RawTensorSpan Reply::raw_output(std::size_t index) const {
  return internal::output_view(*request_, index, /*is_cropped=*/true);
}

RawTensorSpan Reply::raw_full_output(std::size_t index) const {
  return internal::output_view(*request_, index, /*is_cropped=*/false);
}

std::uint32_t Reply::bucket() const { return request_->completion.bucket; }

std::chrono::nanoseconds Reply::queue_time() const {
  return std::chrono::nanoseconds(request_->completion.queue_ns);
}

std::chrono::nanoseconds Reply::execute_time() const {
  return std::chrono::nanoseconds(request_->completion.execute_ns);
}

}  // namespace bucketd
