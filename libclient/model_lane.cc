#include "libclient/model_lane.h"

#include <utility>

#include "libclient/channel.h"
#include "libclient/control_connection.h"
#include "libclient/session_state.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;

Status does_not_fit(const Lane& lane, std::uint64_t bytes) {
  return Status(StatusCode::kResourceExhausted,
                "model '" + lane.model().name + "': the request's inputs take " +
                    std::to_string(bytes) + " bytes, a request may have " +
                    std::to_string(lane.layout().input_slot_bytes) + " with its descriptors");
}

// Lays `inputs` out in a slot that is held. RESOURCE_EXHAUSTED when they do not fit.
Status lay_out(Lane& lane, InFlight& request, std::span<const TensorSignature> inputs,
               bool force_raw) {
  request.signature.assign(inputs.begin(), inputs.end());
  request.plan = force_raw ? nullptr : lane.channel().find_plan(lane, inputs);
  if (request.plan != nullptr) {
    const std::optional<std::uint64_t> bytes = place_padded(inputs, *request.plan, request.inputs);
    if (bytes && *bytes <= lane.layout().input_slot_bytes) {
      request.input_bytes = *bytes;
      std::byte* const slot = lane.input_slot(request.slot);
      // The padding of the slot's last use is still there if that had the very same plan, and so
      // the same sizes: views given to users never reach it.
      if (request.filled_by != request.plan->key) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          fill_padding(request.inputs[i], request.plan->inputs[i], slot);
        }
        request.filled_by = request.plan->key;
      }
      return Status();
    }
    request.plan = nullptr;
  }
  request.filled_by = 0;
  const std::optional<std::uint64_t> bytes = place_raw(inputs, request.inputs);
  if (!bytes) {
    return Status(StatusCode::kInvalidArgument,
                  "model '" + lane.model().name + "': the sizes of the request's inputs overflow");
  }
  if (*bytes > lane.layout().input_slot_bytes) return does_not_fit(lane, *bytes);
  request.input_bytes = *bytes;
  return Status();
}

}  // namespace

ModelLane::ModelLane(std::shared_ptr<ClientState> client, std::string name,
                     std::shared_ptr<Lane> lane)
    : client_(std::move(client)), name_(std::move(name)), first_description_(lane->terms().model) {
  process_.get().lane = std::move(lane);
}

void ModelLane::adopt_lane() { process_.get().lane->owner = weak_from_this(); }

ModelDescription ModelLane::description() const {
  const std::shared_ptr<Lane> lane = present_lane();
  return lane != nullptr ? lane->model() : *first_description_;
}

std::shared_ptr<Lane> ModelLane::present_lane() const {
  ProcessLane& process = process_.get();
  const std::lock_guard lock(process.mutex);
  return process.lane;
}

Result<std::shared_ptr<Lane>> ModelLane::lane(TimePoint deadline) {
  ProcessLane& process = process_.get();
  std::unique_lock lock(process.mutex);
  if (const std::shared_ptr<Lane> present = process.lane; present != nullptr) {
    lock.unlock();
    present->look_now_and_then();
    if (!present->is_closed()) return present;
    lock.lock();
  }
  while (true) {
    if (process.lane != nullptr && !process.lane->is_closed()) return process.lane;
    if (!process.is_opening) break;
    if (process.changed.wait_until(lock, deadline) == std::cv_status::timeout) {
      return error(StatusCode::kUnavailable,
                   "model '" + name_ + "' is not available: its lane was not opened in time");
    }
  }
  process.is_opening = true;
  lock.unlock();
  Result<std::shared_ptr<Lane>> opened = client_->open_lane(name_, deadline);
  if (opened) (*opened)->owner = weak_from_this();
  lock.lock();
  process.is_opening = false;
  std::shared_ptr<Lane> last;
  if (opened) last = std::exchange(process.lane, *opened);
  process.changed.notify_all();
  lock.unlock();  // before `last` goes
  return opened;
}

Result<InFlight*> ModelLane::new_request(std::span<const Shape> shapes,
                                         const RequestOptions& options, SessionState* session) {
  thread_local std::vector<TensorSignature> inputs;  // of every request anew, allocated once
  const auto with_dtypes = [&](const Lane& lane) -> Result<std::span<const TensorSignature>> {
    const std::vector<TensorSpec>& specs = lane.model().inputs;
    inputs.resize(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      // A count that does not fit is check_inputs' to refuse.
      inputs[i] = {i < specs.size() ? specs[i].dtype : DType::kFloat32, shapes[i]};
    }
    const Status status = check_inputs(lane.model(), inputs);
    if (!status.ok()) return error(status);
    return inputs;
  };
  return start_request(with_dtypes, options, session);
}

Result<InFlight*> ModelLane::new_request(std::span<const TensorSignature> inputs, bool is_checked,
                                         const RequestOptions& options, SessionState* session) {
  if (inputs.size() > kMaxTensors) {
    return error(StatusCode::kInvalidArgument,
                 "model '" + name_ + "': a request of " + std::to_string(inputs.size()) +
                     " inputs; at most " + std::to_string(kMaxTensors) + " are possible");
  }
  const auto as_they_are = [&](const Lane& lane) -> Result<std::span<const TensorSignature>> {
    if (is_checked) {
      const Status status = check_inputs(lane.model(), inputs);
      if (!status.ok()) return error(status);
    }
    return inputs;
  };
  Result<InFlight*> request = start_request(as_they_are, options, session);
  if (request) (*request)->is_checked = is_checked;
  return request;
}

Result<InFlight*> ModelLane::start_request(const auto& inputs_for, const RequestOptions& options,
                                           SessionState* session) {
  const TimePoint deadline = options.wait_until ? *options.wait_until : client_->default_deadline();
  while (true) {
    const Result<std::shared_ptr<Lane>> open = lane(deadline);
    if (!open) return error(open.error());
    const std::shared_ptr<Lane>& lane = *open;
    const Result<std::span<const TensorSignature>> inputs = inputs_for(*lane);
    if (!inputs) return error(inputs.error());
    std::uint64_t session_handle = lane->terms().default_session_handle;
    if (session != nullptr) {
      const Result<std::uint64_t> handle = session->handle_on(*lane, deadline);
      if (!handle) {
        // The worker ended meanwhile: the next lane may know the session.
        if (lane->is_closed() && Clock::now() < deadline) continue;
        return error(handle.error());
      }
      session_handle = *handle;
    }
    const Result<InFlight*> taken = lane->channel().take_slot(*lane, deadline);
    if (!taken) {
      // Closed while this waited: the next lane may have a slot.
      if (lane->is_closed() && Clock::now() < deadline) continue;
      return error(taken.error());
    }
    InFlight& request = **taken;
    request.keep_alive = lane;
    request.is_checked = true;
    request.deadline.reset();
    request.priority = 0;
    request.session_handle = session_handle;
    request.has_session = session != nullptr;
    if (session != nullptr) request.session = session->weak_from_this();
    if (const Status status = lay_out(*lane, request, *inputs, options.force_raw); !status.ok()) {
      lane->channel().release(request);
      return error(status);
    }
    return &request;
  }
}

Result<InFlight*> ModelLane::move_request(InFlight& request) {
  RequestOptions options;
  options.wait_until = request.deadline;
  const std::shared_ptr<SessionState> session = request.session.lock();
  if (request.has_session && session == nullptr) return error(SessionState::handle_is_gone());
  Result<InFlight*> moved =
      new_request(request.signature, request.is_checked, options, session.get());
  if (!moved) return moved;
  InFlight& target = **moved;
  target.deadline = request.deadline;
  target.priority = request.priority;
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const RawTensorSpan from =
        placed_view(request.inputs[i], request.lane->input_slot(request.slot));
    bytes.resize(from.shape.byte_size(from.dtype).value_or(0));
    from.copy_to(bytes);
    placed_view(target.inputs[i], target.lane->input_slot(target.slot)).copy_from(bytes);
  }
  return moved;
}

}  // namespace bucketd::internal
