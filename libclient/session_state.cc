#include "libclient/session_state.h"

#include <algorithm>
#include <utility>

#include "libclient/backoff.h"
#include "libclient/channel.h"
#include "libclient/fork_awareness.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;
using flatbuffers::FlatBufferBuilder;

ControlConnection::Compose open_message(const std::string& model, const std::string& id) {
  return [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto wire_model = builder.CreateString(model);
    const auto wire_id = builder.CreateString(id);
    return {wire::Body::OpenSession, wire::CreateOpenSession(builder, wire_model, wire_id).Union()};
  };
}

// A deadline that has passed asks for what is possible at once, which is still an answer.
TimePoint answer_deadline(TimePoint deadline) {
  return std::max(deadline, Clock::now()) + kAnswerTime;
}

}  // namespace

Result<std::shared_ptr<SessionState>> SessionState::open(std::shared_ptr<ModelLane> model,
                                                         const std::string& id,
                                                         TimePoint deadline) {
  const LateSession late = id.empty() ? LateSession::kClose : LateSession::kGiveUp;
  Backoff backoff;
  while (true) {
    const Result<std::shared_ptr<Lane>> lane = model->lane(deadline);
    if (!lane) return error(lane.error());
    const Result<Answer> answer =
        (*lane)->connection().call(open_message(model->name(), id), wire::Body::SessionOpened,
                                   answer_deadline(deadline), late);
    if (answer) return make(model, **lane, *answer->message().body_as_SessionOpened());
    if (answer.error().code() != StatusCode::kUnavailable || !backoff.wait(deadline)) {
      return error(answer.error());
    }
  }
}

Result<std::shared_ptr<SessionState>> SessionState::make(std::shared_ptr<ModelLane> model,
                                                         Lane& lane,
                                                         const wire::SessionOpened& opened) {
  std::string id = opened.session_id() == nullptr ? std::string() : opened.session_id()->str();
  if (id.empty() || opened.session_handle() == 0) {
    return error(StatusCode::kInternal, "the daemon opened a session without an id or handle");
  }
  if (!model->client().enter_session(id)) {
    return error(StatusCode::kFailedPrecondition,
                 "session " + id + " of model '" + model->name() +
                     "' is open in this client already: copy its handle instead");
  }
  const std::shared_ptr<SessionState> session(
      new SessionState(std::move(model), std::move(id), opened.state_bytes(),
                       lane.connection().daemon_incarnation()));
  const Result<std::uint64_t> handle = session->bound(lane, opened);
  if (!handle) return error(handle.error());
  return session;
}

SessionState::SessionState(std::shared_ptr<ModelLane> model, std::string id,
                           std::uint64_t state_bytes, std::uint64_t daemon_incarnation)
    : model_(std::move(model)),
      id_(std::move(id)),
      state_bytes_(state_bytes),
      daemon_incarnation_(daemon_incarnation),
      generation_(fork_generation()) {}

SessionState::~SessionState() {
  // In a forked child it is the parent's.
  if (generation_ != fork_generation() || ended_) return;
  leave();
  // A session that a former connection had is idle now, or somebody else's of this user.
  const std::shared_ptr<ControlConnection> connection = connection_.lock();
  if (connection != nullptr) connection->post_close_session(id_, /*keep_state=*/false);
}

void SessionState::leave() { model_->client().leave_session(id_); }

Status SessionState::handle_is_gone() {
  return Status(StatusCode::kFailedPrecondition,
                "the request's session was closed, with its last handle, before it was submitted");
}

std::string SessionState::text() const {
  return "session " + id_ + " of model '" + model_->name() + "'";
}

Status SessionState::check_usable() const {
  if (generation_ != fork_generation()) {
    return Status(StatusCode::kFailedPrecondition,
                  text() +
                      " belongs to the process that opened it, before the fork; once that has "
                      "called keep(), resume it here by its id");
  }
  const std::lock_guard lock(mutex_);
  return ended_.value_or(Status());
}

Result<std::uint64_t> SessionState::handle_on(Lane& lane, TimePoint deadline) {
  if (generation_ == fork_generation()) {
    const std::lock_guard lock(mutex_);
    if (lane_serial_ == lane.serial() && !ended_) return handle_;
  }
  const Status status = check_usable();
  if (!status.ok()) return error(status);
  return bind(lane, deadline);
}

Result<std::uint64_t> SessionState::bind(Lane& lane, TimePoint deadline) {
  Backoff backoff;
  while (true) {
    const Result<Answer> answer = lane.connection().call(
        open_message(model_->name(), id_), wire::Body::SessionOpened, answer_deadline(deadline));
    if (answer) return bound(lane, *answer->message().body_as_SessionOpened());
    const Status& status = answer.error();
    if (status.code() == StatusCode::kNotFound &&
        lane.connection().daemon_incarnation() != daemon_incarnation_) {
      return error(StatusCode::kNotFound,
                   text() + " is gone: the daemon was restarted, and its sessions ended with it");
    }
    if (lane.is_closed()) return error(lane.gone());
    if (status.code() != StatusCode::kUnavailable || !backoff.wait(deadline)) return error(status);
  }
}

Result<std::uint64_t> SessionState::bound(Lane& lane, const wire::SessionOpened& opened) {
  const std::lock_guard lock(mutex_);
  if (ended_) return error(*ended_);
  // A later lane's answer may have overtaken this one.
  if (lane.serial() >= lane_serial_) {
    lane_serial_ = lane.serial();
    handle_ = opened.session_handle();
    connection_ = lane.connection().weak_from_this();
  }
  return opened.session_handle();
}

Status SessionState::explain(const Status& told, std::uint64_t handle) {
  if (const Status status = check_usable(); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    if (handle_ == handle) lane_serial_ = 0;
  }
  const Result<std::shared_ptr<Lane>> lane = model_->lane(Clock::now());
  if (!lane) return lane.error();
  const Result<std::uint64_t> again = handle_on(**lane, Clock::now());
  if (!again) return again.error();
  return Status(StatusCode::kUnavailable,
                text() + ": the request was not started and may be sent again: " + told.message());
}

Status SessionState::come_along(const ControlConnection& connection, TimePoint deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (connection_.lock().get() == &connection) return Status();
  }
  const Result<std::shared_ptr<Lane>> lane = model_->lane(deadline);
  if (!lane) return lane.error();
  const Result<std::uint64_t> handle = handle_on(**lane, deadline);
  return handle ? Status() : handle.error();
}

Status SessionState::end(bool keep_state, TimePoint deadline) {
  if (const Status status = check_usable(); !status.ok()) return status;
  std::uint64_t handle = 0;
  std::uint64_t lane_serial = 0;
  {
    const std::lock_guard lock(mutex_);
    handle = handle_;
    lane_serial = lane_serial_;
  }
  const std::shared_ptr<Lane> lane = model_->present_lane();
  if (lane != nullptr && lane->serial() == lane_serial) {
    // A request that takes longer than the caller has patience does not keep the session alive.
    static_cast<void>(lane->channel().wait_for_session(*lane, handle, deadline));
  }
  const auto close = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto id = builder.CreateString(id_);
    return {wire::Body::CloseSession, wire::CreateCloseSession(builder, id, keep_state).Union()};
  };
  Result<Answer> answer = error(StatusCode::kUnavailable, "not asked");
  Backoff backoff;
  while (true) {
    const Result<std::shared_ptr<ControlConnection>> connection =
        model_->client().connection(deadline);
    if (!connection) return connection.error();
    // Only who has it can give it up: after the end of its connection, the next one resumes it.
    const Status status = keep_state ? come_along(**connection, deadline) : Status();
    if (!status.ok()) return status;
    answer =
        (*connection)->call(close, wire::Body::Ok, std::max(deadline, Clock::now() + kAnswerTime));
    const bool is_lost = !answer && (*connection)->has_ended();
    if (!is_lost || !backoff.wait(deadline)) break;
  }
  const bool is_over = answer || answer.error().code() == StatusCode::kNotFound;
  if (is_over) {
    const std::lock_guard lock(mutex_);
    if (!ended_) {
      leave();
      if (!answer) {
        ended_ = answer.error();
      } else if (keep_state) {
        ended_ = Status(StatusCode::kFailedPrecondition,
                        text() + " was given up with keep(): resume it by its id");
      } else {
        ended_ = Status(StatusCode::kNotFound, text() + " was closed");
      }
    }
  }
  return answer ? Status() : answer.error();
}

}  // namespace bucketd::internal
