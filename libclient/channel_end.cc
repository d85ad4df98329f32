// How a channel, or one of its lanes, ends, and what is said to the requests that are in flight.
#include <algorithm>
#include <string>

#include "libclient/channel.h"
#include "libclient/control_connection.h"

namespace bucketd::internal {

using Clock = std::chrono::steady_clock;

void Channel::close(const Status& status, std::span<const ExecutingRequest> executing) {
  const std::lock_guard lock(mutex_);
  if (is_closed()) return;
  collect_locked();  // what was answered before stays answered
  if (!is_closed()) close_locked(status, Ending::kNotStarted, executing);
}

void Channel::connection_ended(const Status& status) {
  const std::lock_guard lock(mutex_);
  if (is_closed()) return;
  collect_locked();
  if (!is_closed()) close_locked(status, Ending::kUnknown);
}

void Channel::close_locked(const Status& status, Ending ending,
                           std::span<const ExecutingRequest> executing) {
  if (is_closed()) return;
  closed_status_ = status;
  ending_ = ending;
  closed_.store(true, std::memory_order_release);
  for (Lane* lane : lanes_) fail_lane_locked(*lane, status, ending, executing);
  closed_locked();
  if (poll_set_ != nullptr) poll_set_->raise();
  interrupt();
}

void Channel::condemn(const Status& status) {
  const std::lock_guard lock(mutex_);
  close_locked(status, Ending::kAsStated);
}

void Channel::close_lane(std::uint32_t lane_id, const Status& status) {
  const std::lock_guard lock(mutex_);
  if (is_closed()) return;
  collect_locked();
  for (Lane* lane : lanes_) {
    if (lane->terms().lane_id == lane_id) fail_lane_locked(*lane, status, Ending::kNotStarted);
  }
  if (poll_set_ != nullptr) poll_set_->raise();
  interrupt();
}

void Channel::fail_lane_locked(Lane& lane, const Status& status, Ending ending,
                               std::span<const ExecutingRequest> executing) {
  if (lane.closed) return;
  const std::string model = "model '" + lane.model().name + "': ";
  const Status not_started =
      ending == Ending::kAsStated
          ? status
          : Status(
                StatusCode::kUnavailable,
                model + "the request was not started and may be sent again: " + status.message());
  lane.closed_status = not_started;
  lane.closed_by_daemon = ending == Ending::kNotStarted;
  lane.closed = true;
  for (InFlight& request : lane.slots) {
    const SlotState state = request.state.load(std::memory_order_relaxed);
    if (state == SlotState::kAbandoned) finish_abandoned_locked(request);
    if (state != SlotState::kSubmitted) continue;
    const bool executed = std::ranges::any_of(executing, [&](const ExecutingRequest& one) {
      return one.lane_id == lane.terms().lane_id && one.user_data == request.user_data();
    });
    if (executed) {
      request.failure =
          Status(StatusCode::kAborted,
                 model + "the worker ended while it ran this request: " + status.message());
    } else if (ending == Ending::kUnknown) {
      request.failure = Status(
          StatusCode::kAborted,
          model + "no answer came; the request may or may not have run: " + status.message());
    } else {
      request.failure = not_started;
    }
    finish_locked(request, SlotState::kFailed);
  }
  for (Waiter* waiter : waiters_) {
    if (waiter->lane_for_slot == &lane) waiter->wake.notify_one();
  }
}

// A lane that its worker closed, and whose end the control connection has not explained yet.
Lane* Channel::silent_lane_locked() {
  if (is_closed()) return nullptr;
  const bool all = peer_closed();
  for (Lane* lane : lanes_) {
    if (!lane->closed && (all || lane->peer_closed())) return lane;
  }
  return nullptr;
}

void Channel::hear_why(Lane* lane) {
  if (const auto connection = connection_.lock()) {
    connection->wait_until([lane] { return lane->closed.load(); },
                           Clock::now() + kClosedReasonTimeout);
  }
  const std::lock_guard lock(mutex_);
  if (lane->closed) return;
  // Not heard in time. What was answered is taken; of the rest nobody knows whether it ran.
  collect_locked();
  if (lane->closed) return;
  const Status status(StatusCode::kAborted,
                      "model '" + lane->model().name +
                          "': the worker closed the connection and the daemon did not say why; the "
                          "request may or may not have run");
  if (peer_closed()) {
    close_locked(status, Ending::kAsStated);
  } else {
    fail_lane_locked(*lane, status, Ending::kAsStated);
  }
}

}  // namespace bucketd::internal
