// Requests of the control protocol about sessions.
#include <optional>
#include <utility>

#include "common/message_socket.h"
#include "daemon/supervisor/control_message.h"
#include "daemon/supervisor/control_service.h"

namespace bucketd::supervisor {
namespace {

// Room that a list leaves for its last entry and what frames it.
constexpr std::size_t kListMarginBytes = 4096;

SessionAsker asker_of(const ControlConnection& connection) {
  return {connection.id(), connection.peer().uid, connection.is_admin()};
}

// Sends a SessionOpened, or why there is none.
SessionOpened answer_with_session(ControlConnection& connection, std::uint64_t request_id) {
  return [weak = connection.weak_from_this(), request_id](const Result<SessionOffer>& offer) {
    const std::shared_ptr<ControlConnection> asker = weak.lock();
    if (asker == nullptr) return;
    if (!offer) return asker->send(error_message(request_id, offer.error()));
    asker->send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
      const auto id = builder.CreateString(offer->id);
      const auto model = builder.CreateString(offer->model);
      return wire::CreateSessionOpened(builder, id, offer->handle, model, offer->state_bytes);
    }));
  };
}

wire::SessionState state_of(const Session& session) {
  if (session.lost) return wire::SessionState::kLost;
  if (session.torn) return wire::SessionState::kTorn;
  for (const auto& [connection_id, binding] : session.bindings) {
    if (binding.is_wanted && connection_id != kOwnConnection) return wire::SessionState::kOpen;
  }
  return wire::SessionState::kIdle;
}

std::uint64_t ms_since(Clock::time_point then) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - then).count());
}

}  // namespace

void ControlService::open_session(ControlConnection& connection, std::uint64_t request_id,
                                  const wire::OpenSession& request) {
  const std::string model = text_of(request.model());
  const std::string session_id = text_of(request.session_id());
  const SessionOpened opened = answer_with_session(connection, request_id);
  if (daemon_.is_draining()) {
    return opened(error(StatusCode::kUnavailable, "the daemon is draining"));
  }
  const SessionAsker asker = asker_of(connection);
  if (!session_id.empty()) return sessions_.resume(asker, session_id, model, opened);
  const ModelRecord* record = registry_.find(model);
  if (record == nullptr) return opened(error(registry_.not_found(model)));
  if (Status refused = crash_accounts_.check(asker.uid, model, Clock::now()); !refused.ok()) {
    return opened(error(std::move(refused)));
  }
  if (record->state != ModelState::kReady) {
    return opened(error(record->state == ModelState::kLoading ? StatusCode::kUnavailable
                                                              : StatusCode::kFailedPrecondition,
                        "model '" + model + "' is not ready"));
  }
  sessions_.open(asker, record->serving, opened);
}

void ControlService::close_session(ControlConnection& connection, std::uint64_t request_id,
                                   const wire::CloseSession& request) {
  const auto closed = [weak = connection.weak_from_this(), request_id](const Status& status) {
    const std::shared_ptr<ControlConnection> asker = weak.lock();
    if (asker == nullptr) return;
    asker->send(status.ok() ? ok_message(request_id) : error_message(request_id, status));
  };
  const std::string id = text_of(request.session_id());
  if (request.keep_state()) return sessions_.give_up(asker_of(connection), id, closed);
  sessions_.close(asker_of(connection), id, closed);
}

void ControlService::operate_session(ControlConnection& connection, std::uint64_t request_id,
                                     const wire::OperateSession& request) {
  SessionTask task;
  task.done = answer_with_session(connection, request_id);
  switch (request.operation()) {
    case wire::SessionOperation::kReset:
      task.kind = SessionTask::Kind::kReset;
      break;
    case wire::SessionOperation::kTruncate:
      task.kind = SessionTask::Kind::kTruncate;
      break;
    case wire::SessionOperation::kCheckpoint:
      task.kind = SessionTask::Kind::kCheckpoint;
      break;
    case wire::SessionOperation::kRestore:
      task.kind = SessionTask::Kind::kRestore;
      break;
    default:
      return task.done(error(StatusCode::kUnimplemented,
                             "this daemon does not know operation " +
                                 std::to_string(static_cast<int>(request.operation()))));
  }
  task.length = request.length();
  task.current_length = request.current_length();
  task.stays_idle = request.stays_idle();
  sessions_.operate(asker_of(connection), text_of(request.session_id()), std::move(task));
}

void ControlService::fork_session(ControlConnection& connection, std::uint64_t request_id,
                                  const wire::ForkSession& request) {
  SessionTask task;
  task.kind = SessionTask::Kind::kFork;
  task.done = answer_with_session(connection, request_id);
  sessions_.operate(asker_of(connection), text_of(request.session_id()), std::move(task));
}

void ControlService::read_state(ControlConnection& connection, std::uint64_t request_id,
                                const wire::ReadState& request) {
  const auto read = sessions_.read(asker_of(connection), text_of(request.session_id()),
                                   request.state(), request.offset(), request.byte_count());
  if (!read) return connection.send(error_message(request_id, read.error()));
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    const auto bytes = builder.CreateVector(
        reinterpret_cast<const std::uint8_t*>(read->bytes.data()), read->bytes.size());
    return wire::CreateStateBytes(builder, bytes, read->total_bytes);
  }));
}

void ControlService::list_sessions(ControlConnection& connection, std::uint64_t request_id,
                                   const wire::ListSessions& request) {
  if (request.all_users() && !connection.is_admin()) {
    return connection.send(error_message(
        request_id, Status(StatusCode::kPermissionDenied,
                           "listing the sessions of all users is for administrators (see 'access' "
                           "in the daemon's configuration)")));
  }
  const SessionAsker asker = asker_of(connection);
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    std::vector<flatbuffers::Offset<wire::SessionSummary>> summaries;
    bool is_complete = true;
    sessions_.for_each([&](const Session& session) {
      const bool may_operate = SessionTable::may_operate(asker, session);
      if (!is_complete || (!may_operate && !request.all_users())) return;
      // 8: the entry's place in the vector.
      if (builder.GetSize() + 8 * summaries.size() > kMaxPacketBytes - kListMarginBytes) {
        is_complete = false;
        return;
      }
      const auto id = builder.CreateString(may_operate ? session.id : std::string());
      const auto model = builder.CreateString(session.model);
      const auto reason = builder.CreateString(session.lost   ? session.lost->message()
                                               : session.torn ? session.torn->message()
                                                              : std::string());
      const SessionTable::Activity activity = sessions_.activity_of(session);
      wire::SessionSummaryBuilder summary(builder);
      summary.add_session_id(id);
      summary.add_uid(session.uid);
      summary.add_model(model);
      summary.add_state(state_of(session));
      summary.add_scope(session.is_of_model ? wire::SessionScope::kModel
                                            : wire::SessionScope::kSession);
      summary.add_state_bytes(session.state_bytes);
      summary.add_age_ms(ms_since(session.created));
      summary.add_idle_ms(ms_since(activity.used));
      summary.add_requests(activity.requests);
      summary.add_has_checkpoint(session.checkpoint.has_value());
      summary.add_reason(reason);
      summaries.push_back(summary.Finish());
    });
    return wire::CreateSessionList(builder, builder.CreateVector(summaries), is_complete);
  }));
}

}  // namespace bucketd::supervisor
