// The fake daemon's answers to what clients ask of sessions.
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "common/message_socket.h"
#include "common/wire/model_wire.h"
#include "libclient/testing/fake_daemon.h"

namespace bucketd::testing {

using flatbuffers::FlatBufferBuilder;

void FakeDaemon::answer_session_locked(Connection& connection, std::uint64_t id,
                                       const Result<const FakeSession*>& session) {
  if (!session) return refuse_locked(connection, id, session.error());
  if (session_fault_ == SessionFault::kLate) {
    late_sessions_.emplace_back([this, &connection, id, opened = FakeSession(**session)] {
      answer_session_locked(connection, id, &opened);
    });
    return;
  }
  send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
    const auto session_id = builder.CreateString((*session)->id);
    const auto model = builder.CreateString((*session)->model);
    return {wire::Body::SessionOpened,
            wire::CreateSessionOpened(builder, session_id, (*session)->handle, model,
                                      kLogSize * sizeof(std::int64_t))
                .Union()};
  });
}

bool FakeDaemon::handle_session_locked(Connection& connection, const wire::Message& message) {
  const std::uint64_t id = message.request_id();
  const auto log = [&] { session_messages_.emplace_back(wire::EnumNameBody(message.body_type())); };
  const auto is_refused = [&] {
    log();
    if (session_fault_ == SessionFault::kHangUp) {
      sessions_.connection_ended(connection.number);
      ::shutdown(connection.socket.get(), SHUT_RDWR);
      return true;
    }
    if (session_refusal_) refuse_locked(connection, id, *session_refusal_);
    return session_refusal_.has_value();
  };
  if (const wire::OpenSession* open = message.body_as_OpenSession()) {
    if (is_refused()) return true;
    const auto model = models_.find(open->model()->str());
    if (model == models_.end()) {
      refuse_locked(connection, id, Status(StatusCode::kNotFound, "no such model"));
    } else {
      answer_session_locked(
          connection, id,
          sessions_.open(connection.number, model->second, open->session_id()->str()));
    }
    return true;
  }
  if (const wire::CloseSession* close = message.body_as_CloseSession()) {
    log();
    const Status status =
        sessions_.close(connection.number, close->session_id()->str(), close->keep_state());
    if (!status.ok()) {
      refuse_locked(connection, id, status);
    } else {
      send_locked(connection, id, [](FlatBufferBuilder& builder) -> Body {
        return {wire::Body::Ok, wire::CreateOk(builder).Union()};
      });
    }
    return true;
  }
  if (const wire::OperateSession* operate = message.body_as_OperateSession()) {
    if (is_refused()) return true;
    answer_session_locked(
        connection, id,
        sessions_.operate(connection.number, operate->session_id()->str(), operate->operation(),
                          operate->length(), operate->stays_idle()));
    return true;
  }
  if (const wire::ForkSession* fork = message.body_as_ForkSession()) {
    if (is_refused()) return true;
    answer_session_locked(connection, id,
                          sessions_.fork(connection.number, fork->session_id()->str()));
    return true;
  }
  if (const wire::ReadState* read = message.body_as_ReadState()) {
    if (is_refused()) return true;
    const Result<std::span<const std::byte>> state = sessions_.state_of(read->session_id()->str());
    if (!state || read->state() > 0 || read->byte_count() > kMaxStateReadBytes) {
      refuse_locked(connection, id,
                    state ? Status(StatusCode::kOutOfRange, "no such state") : state.error());
      return true;
    }
    const std::size_t offset = std::min<std::size_t>(read->offset(), state->size());
    const auto piece =
        state->subspan(offset, std::min<std::size_t>(read->byte_count(), state->size() - offset));
    send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
      const auto bytes =
          builder.CreateVector(reinterpret_cast<const std::uint8_t*>(piece.data()), piece.size());
      return {wire::Body::StateBytes,
              wire::CreateStateBytes(builder, bytes, state->size() + read_excess_).Union()};
    });
    return true;
  }
  if (message.body_as_ListSessions() != nullptr) {
    log();
    list_sessions_locked(connection, id);
    return true;
  }
  return false;
}

// A list of more than one calls itself incomplete.
void FakeDaemon::list_sessions_locked(Connection& connection, std::uint64_t id) {
  send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
    std::vector<flatbuffers::Offset<wire::SessionSummary>> sessions;
    for (const auto& [session_id, session] : sessions_.all()) {
      const auto wire_id = builder.CreateString(session_id);
      const auto model = builder.CreateString(session.model);
      const auto reason = builder.CreateString(session.is_torn ? "its worker died" : "");
      const auto state = session.is_torn           ? wire::SessionState::kTorn
                         : session.connection == 0 ? wire::SessionState::kIdle
                                                   : wire::SessionState::kOpen;
      sessions.push_back(wire::CreateSessionSummary(
          builder, wire_id, 1000, model, state, wire::SessionScope::kSession,
          kLogSize * sizeof(std::int64_t), 5000, 3000, session.log.size(),
          session.checkpoint.has_value(), reason));
    }
    const auto wire_sessions = builder.CreateVector(sessions);
    return {wire::Body::SessionList,
            wire::CreateSessionList(builder, wire_sessions, sessions_.all().size() < 2).Union()};
  });
}

void FakeDaemon::refuse_sessions(std::optional<Status> status) {
  const std::lock_guard lock(mutex_);
  session_refusal_ = std::move(status);
}

void FakeDaemon::spoil_sessions(SessionFault fault) {
  const std::lock_guard lock(mutex_);
  session_fault_ = fault;
}

void FakeDaemon::answer_late_sessions() {
  const std::lock_guard lock(mutex_);
  session_fault_ = SessionFault::kNone;
  for (const auto& answer : std::exchange(late_sessions_, {})) answer();
}

void FakeDaemon::end_session(const std::string& id, const Status& why) {
  const std::lock_guard lock(mutex_);
  sessions_.end(id, why);
}

void FakeDaemon::overstate_states(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  read_excess_ = bytes;
}

void FakeDaemon::set_default_session(std::uint64_t handle) {
  const std::lock_guard lock(mutex_);
  default_session_ = handle;
}

void FakeDaemon::wait_for_session_messages(std::size_t count) {
  std::unique_lock lock(mutex_);
  wait_locked(lock, [&] { return session_messages_.size() >= count; });
}

std::vector<std::string> FakeDaemon::session_messages() const {
  const std::lock_guard lock(mutex_);
  return session_messages_;
}

std::map<std::string, FakeSession> FakeDaemon::sessions() const {
  const std::lock_guard lock(mutex_);
  return sessions_.all();
}

}  // namespace bucketd::testing
