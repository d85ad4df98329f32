#include "bucketd/session.h"

#include <utility>

#include "libclient/session_state.h"

namespace bucketd {

using internal::SessionState;
using internal::TimePoint;

namespace {

TimePoint until(const SessionState& session, Deadline deadline) {
  return deadline ? *deadline : session.default_deadline();
}

}  // namespace

Session::Session(std::shared_ptr<SessionState> state) : state_(std::move(state)) {}

const std::string& Session::id() const { return state_->id(); }

std::uint64_t Session::state_bytes() const { return state_->state_bytes(); }

Result<Request> Session::new_request(std::initializer_list<Shape> shapes,
                                     const RequestOptions& options) {
  return new_request(std::span(shapes.begin(), shapes.size()), options);
}

Result<Request> Session::new_request(std::span<const Shape> shapes, const RequestOptions& options) {
  const Result<internal::InFlight*> request =
      state_->model().new_request(shapes, options, state_.get());
  if (!request) return error(request.error());
  return Request(internal::InFlightHandle(*request));
}

Result<Request> Session::new_unchecked_request(std::span<const TensorSignature> inputs,
                                               const RequestOptions& options) {
  const Result<internal::InFlight*> request =
      state_->model().new_request(inputs, /*is_checked=*/false, options, state_.get());
  if (!request) return error(request.error());
  return Request(internal::InFlightHandle(*request));
}

Status Session::reset(Deadline deadline) {
  return state_->operate(wire::SessionOperation::kReset, 0, -1, until(*state_, deadline));
}

Status Session::truncate(std::int64_t length, std::optional<std::int64_t> current_length,
                         Deadline deadline) {
  // Less than nothing would mean "not said" on the wire.
  if (length < 0 || current_length.value_or(0) < 0) {
    return Status(StatusCode::kOutOfRange,
                  "session " + id() + ": truncated to " + std::to_string(length) +
                      (current_length ? " of " + std::to_string(*current_length) : "") +
                      " positions; lengths are at least 0");
  }
  return state_->operate(wire::SessionOperation::kTruncate, length, current_length.value_or(-1),
                         until(*state_, deadline));
}

Status Session::checkpoint(Deadline deadline) {
  return state_->operate(wire::SessionOperation::kCheckpoint, 0, -1, until(*state_, deadline));
}

Status Session::restore(Deadline deadline) {
  return state_->operate(wire::SessionOperation::kRestore, 0, -1, until(*state_, deadline));
}

Result<Session> Session::fork(Deadline deadline) {
  Result<std::shared_ptr<SessionState>> forked = state_->fork(until(*state_, deadline));
  if (!forked) return error(forked.error());
  return Session(std::move(*forked));
}

Result<std::vector<std::byte>> Session::read_state(std::size_t state, Deadline deadline) {
  return state_->read_state(state, until(*state_, deadline));
}

Status Session::close(Deadline deadline) {
  return state_->end(/*keep_state=*/false, until(*state_, deadline));
}

Status Session::keep(Deadline deadline) {
  return state_->end(/*keep_state=*/true, until(*state_, deadline));
}

Result<Session> Model::open_session(Deadline deadline) {
  Result<std::shared_ptr<SessionState>> opened = SessionState::open(
      lane_, std::string(), deadline.value_or(lane_->client().default_deadline()));
  if (!opened) return error(opened.error());
  return Session(std::move(*opened));
}

Result<Session> Model::resume_session(const std::string& id, Deadline deadline) {
  // Nothing would mean a new one.
  if (id.empty()) return error(StatusCode::kInvalidArgument, "a session's id must not be empty");
  Result<std::shared_ptr<SessionState>> opened =
      SessionState::open(lane_, id, deadline.value_or(lane_->client().default_deadline()));
  if (!opened) return error(opened.error());
  return Session(std::move(*opened));
}

}  // namespace bucketd
