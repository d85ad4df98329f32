// SessionTable's operations: what is done to a session's state as a whole.
#include <algorithm>
#include <utility>

#include "common/message_socket.h"
#include "common/truncation.h"
#include "common/wire/model_wire.h"
#include "daemon/link/session_record.h"
#include "daemon/supervisor/session_table.h"

namespace bucketd::supervisor {
namespace {

// How long a task may wait for the session's model to be there.
constexpr std::chrono::seconds kBeginTime{30};

using Kind = SessionTask::Kind;
using State = SessionBinding::State;

bool may_mend(Kind kind) { return kind == Kind::kReset || kind == Kind::kRestore; }

Status not_open() {
  return Status(StatusCode::kFailedPrecondition,
                "this connection does not have the session open; open it with its id first");
}

}  // namespace

void SessionTable::operate(const SessionAsker& asker, const std::string& id, SessionTask task) {
  Session* session = find_by_id(asker, id);
  if (session == nullptr) return task.done(error(no_session(asker, id)));
  if (const Status status = check_task(*session, task); !status.ok()) {
    return task.done(error(status));
  }
  const auto binding = session->bindings.find(asker.connection_id);
  const bool is_open = binding != session->bindings.end() && binding->second.is_wanted;
  const bool is_others =
      !is_open && std::any_of(session->bindings.begin(), session->bindings.end(), [](auto& item) {
        return item.second.is_wanted && item.first != kOwnConnection;
      });
  if (!session->is_of_model && is_others) {
    return task.done(error(StatusCode::kFailedPrecondition,
                           "the session is in use by another connection of this user"));
  }
  task.stays_idle = task.stays_idle && !is_open && may_mend(task.kind);
  if (!session->is_of_model && !is_open && !session->torn && !task.stays_idle) {
    return task.done(error(not_open()));
  }
  if (const Status status = check_under_way(session->uid); !status.ok()) {
    return task.done(error(status));
  }
  task.connection_id = asker.connection_id;
  task.begin_until = Clock::now() + kBeginTime;
  schedule(task.begin_until);
  session->used = Clock::now();
  session->tasks.push_back(std::move(task));
  advance(session->handle);
}

Status SessionTable::check_task(const Session& session, const SessionTask& task) {
  if (session.lost) return *session.lost;
  if (session.torn && !may_mend(task.kind)) return *session.torn;
  if (task.kind == Kind::kRestore && !session.checkpoint && session.tasks.empty()) {
    return Status(StatusCode::kFailedPrecondition, "the session has no checkpoint to restore");
  }
  if (task.kind == Kind::kFork && session.is_of_model) {
    return Status(StatusCode::kFailedPrecondition,
                  "model '" + session.model +
                      "' has 'state_scope: model': its state cannot be "
                      "forked into a session");
  }
  if (task.kind == Kind::kTruncate) {
    return check_truncation(session.model, session.states, task.length, task.current_length);
  }
  return Status();
}

// Begins the first task, if it can be begun now.
void SessionTable::work(Session& session) {
  if (session.is_working || session.tasks.empty()) return;
  const SessionTask& task = session.tasks.front();
  if (const Status status = check_task(session, task); !status.ok()) {
    return finish_task(session, status);
  }
  if (task.kind == Kind::kRestore && !session.checkpoint) {
    return finish_task(session, Status(StatusCode::kFailedPrecondition,
                                       "the session has no checkpoint to restore"));
  }
  // A torn session must not be bound for a client before it is mended.
  std::uint64_t connection_id = kOwnConnection;
  if (!session.torn) {
    const auto own = session.bindings.find(task.connection_id);
    if (own != session.bindings.end() && own->second.is_wanted) {
      connection_id = task.connection_id;
    } else if (!session.is_of_model && !task.stays_idle) {
      return finish_task(session, not_open());
    }
  }
  SessionBinding& binding = session.bindings[connection_id];
  binding.is_wanted = true;
  if (connection_id == kOwnConnection && binding.state == State::kAway && is_on_worker(session) &&
      !must_wait(session)) {
    const Status refused = refusal_(session.uid, session.model);
    if (!refused.ok()) return finish_task(session, refused);
    return bind(session, connection_id, false);
  }
  if (binding.state != State::kBound) return;
  if (const Status status = prepare_copy(session, task); !status.ok()) {
    return finish_task(session, status);
  }
  ask_worker(session, connection_id);
}

// Memory for what the task copies to.
Status SessionTable::prepare_copy(Session& session, const SessionTask& task) {
  if (task.kind != Kind::kCheckpoint && task.kind != Kind::kFork) return Status();
  const bool is_fork = task.kind == Kind::kFork;
  const std::string what = is_fork ? "cannot fork the session" : "cannot make a checkpoint";
  // A checkpoint needs no record.
  const std::uint64_t bytes = session.state_bytes + (is_fork ? kSessionRecordBytes : 0);
  make_room(session.uid, is_fork ? 1 : 0, StateArenas::arena_bytes(bytes).value_or(0));
  if (is_fork) {
    Result<Charge> charge = accounts_.charge(session.uid, Resource::kSessions, 1);
    if (!charge) return charge.error().with_context(what);
    session.incoming_session = std::move(*charge);
  }
  Result<StateMemory> memory = allocate(session.uid, session.generation->spec.worker, bytes);
  if (!memory) {
    session.incoming_session.give_back();
    return memory.error().with_context(what);
  }
  session.incoming = std::move(*memory);
  return Status();
}

void SessionTable::ask_worker(Session& session, std::uint64_t connection_id) {
  const SessionTask& task = session.tasks.front();
  link::StateOperation operation = link::StateOperation::kReset;
  std::uint32_t arena_id = 0;
  switch (task.kind) {
    case Kind::kReset:
      break;
    case Kind::kTruncate:
      operation = link::StateOperation::kTruncate;
      break;
    case Kind::kCheckpoint:
    case Kind::kFork:
      operation = link::StateOperation::kCopyOut;
      arena_id = session.incoming->arena_id;
      break;
    case Kind::kRestore:
      operation = link::StateOperation::kCopyIn;
      arena_id = session.checkpoint->arena_id;
      break;
  }
  WorkerSlot& slot = slot_of_(session.generation->spec.worker);
  if (arena_id != 0) arenas_.map(arena_id, slot);
  session.is_working = true;
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto offsets =
            builder.CreateVector(arena_id != 0 ? session.offsets : std::vector<std::uint64_t>());
        return link::CreateOperateSession(builder, connection_id, session.handle, operation,
                                          arena_id, offsets, task.length, task.current_length);
      },
      {},
      [this, handle = session.handle](const link::Message* message) { worked(handle, message); });
  slot.watch_executions();
}

void SessionTable::worked(std::uint64_t handle, const link::Message* message) {
  Session* session = find(handle);
  if (session == nullptr || !session->is_working) return;
  if (message != nullptr && message->body_as_Acknowledged() != nullptr) {
    return finish_task(*session, Status());
  }
  if (message != nullptr) {
    const link::Refused* refused = message->body_as_Refused();
    return finish_task(*session,
                       refused != nullptr
                           ? wire::from_wire(refused->status())
                           : Status(StatusCode::kInternal, "the worker gave an unexpected answer"));
  }
  finish_task(*session, Status(StatusCode::kUnavailable,
                               "the worker of model '" + session->model +
                                   (session->torn ? "' died during the operation; the session is "
                                                    "torn: reset or restore it"
                                                  : "' died before the operation was done; the "
                                                    "state is as it was")));
}

void SessionTable::finish_task(Session& session, const Status& status) {
  const std::uint64_t handle = session.handle;
  SessionTask task = std::move(session.tasks.front());
  session.tasks.pop_front();
  session.is_working = false;
  session.used = Clock::now();
  if (const auto own = session.bindings.find(kOwnConnection);
      own != session.bindings.end() && session.tasks.empty()) {
    own->second.is_wanted = false;
  }
  if (!status.ok() || session.is_closing) {
    if (session.incoming) free(*session.incoming, session);
    session.incoming.reset();
    session.incoming_session.give_back();
    advance(handle);
    if (!task.done) return;
    return task.done(error(!status.ok() ? status
                                        : Status(StatusCode::kNotFound,
                                                 "the session was closed during the operation")));
  }
  const bool was_torn = session.torn.has_value();
  if (may_mend(task.kind)) session.torn.reset();
  if (task.kind == Kind::kCheckpoint) {
    if (session.checkpoint) free(*session.checkpoint, session);
    session.checkpoint = std::exchange(session.incoming, std::nullopt);
  }
  if (task.kind == Kind::kFork) {
    forked(session, task);
  } else if (was_torn && !session.is_of_model && !task.stays_idle && task.done) {
    return want(session, task.connection_id, std::move(task.done));  // open again
  } else if (task.done) {
    task.done(offer_of(session));
  }
  schedule(Clock::now() + limits_.idle_timeout);
  advance(handle);
}

void SessionTable::forked(Session& session, SessionTask& task) {
  StateMemory memory = *std::exchange(session.incoming, std::nullopt);
  Charge session_charge = std::move(session.incoming_session);
  if (!task.done) return free(memory, session);  // nobody asks any more
  Session& fork = add(session.uid, session.generation, session.offsets, session.state_bytes,
                      std::move(memory), std::move(session_charge));
  fork.is_initialised = true;
  want(fork, task.connection_id, std::move(task.done));
}

Result<SessionTable::StateRead> SessionTable::read(const SessionAsker& asker, const std::string& id,
                                                   std::uint32_t state, std::uint64_t offset,
                                                   std::uint64_t byte_count) {
  Session* session = find_by_id(asker, id);
  if (session == nullptr) return error(no_session(asker, id));
  if (state >= session->states.size()) {
    return error(StatusCode::kOutOfRange, "model '" + session->model + "' has states 0 to " +
                                              std::to_string(session->states.size() - 1) +
                                              ", not " + std::to_string(state));
  }
  if (byte_count > kMaxStateReadBytes) {
    return error(StatusCode::kInvalidArgument, std::to_string(byte_count) +
                                                   " bytes are too many for one answer; the "
                                                   "limit is " +
                                                   std::to_string(kMaxStateReadBytes));
  }
  const StateSpec& spec = session->states[state];
  StateRead result;
  result.total_bytes = spec.shape.byte_size(spec.dtype).value_or(0);
  if (offset > result.total_bytes) {
    return error(StatusCode::kOutOfRange,
                 "state '" + spec.name + "' has " + std::to_string(result.total_bytes) +
                     " bytes; there are none at " + std::to_string(offset));
  }
  result.bytes.resize(std::min(byte_count, result.total_bytes - offset));
  const Status status =
      arenas_.read(session->memory.arena_id, session->offsets[state] + offset, result.bytes);
  if (!status.ok()) return error(status);
  return result;
}

}  // namespace bucketd::supervisor
