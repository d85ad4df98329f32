// SessionTable's dealings with workers: binding, releasing, and what deaths and reloads mean.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "common/wire/model_wire.h"
#include "daemon/supervisor/session_table.h"

namespace bucketd::supervisor {
namespace {

// How long a session's model may be away (its worker starting again, or the model being replaced)
// before whoever waits for the session is told.
constexpr std::chrono::seconds kBindingTime{30};

using State = SessionBinding::State;

}  // namespace

void SessionTable::answer(SessionBinding& binding, const Result<SessionOffer>& result) {
  auto waiting = std::exchange(binding.waiting, {});
  for (const auto& [deadline, opened] : waiting) opened(result);
}

void SessionTable::released(SessionBinding& binding) {
  for (const Closed& given_up : std::exchange(binding.giving_up, {})) given_up(Status());
}

void SessionTable::want(Session& session, std::uint64_t connection_id, Opened opened) {
  SessionBinding& binding = session.bindings[connection_id];
  binding.is_wanted = true;
  session.used = Clock::now();
  if (opened) {
    if (binding.state == State::kBound) return opened(offer_of(session));
    binding.waiting.emplace_back(Clock::now() + kBindingTime, std::move(opened));
    schedule(binding.waiting.front().first);
  }
  advance(session.handle);
}

void SessionTable::advance(std::uint64_t handle) {
  Session* session = find(handle);
  if (session == nullptr) return;
  std::vector<std::uint64_t> unwanted;
  for (auto& [connection_id, binding] : session->bindings) {
    if (session->is_closing) binding.is_wanted = false;
    if (!binding.is_wanted) unwanted.push_back(connection_id);
  }
  for (const std::uint64_t connection_id : unwanted) {
    const SessionBinding& binding = session->bindings[connection_id];
    if (binding.state == State::kBound) release(*session, connection_id);
    if (binding.state != State::kAway) continue;
    released(session->bindings[connection_id]);
    session->bindings.erase(connection_id);
  }
  if (session->is_closing) {
    if (session->bindings.empty() && !session->is_working) erase(handle);
    return;
  }
  work(*session);
  session = find(handle);
  if (session == nullptr || session->lost || session->torn || !is_on_worker(*session)) return;
  std::vector<std::uint64_t> away;
  bool is_binding = false;
  for (const auto& [connection_id, binding] : session->bindings) {
    if (binding.state == State::kAway && binding.is_wanted) away.push_back(connection_id);
    is_binding = is_binding || binding.state == State::kBinding;
  }
  if (away.empty() || must_wait(*session)) return;
  const Status refused = refusal_(session->uid, session->model);
  if (!refused.ok()) return refuse(*session, away, refused);
  for (const std::uint64_t connection_id : away) {
    // The first one initialises, and the others see what it did.
    if (!session->is_initialised && std::exchange(is_binding, true)) return;
    bind(*session, connection_id, !session->is_initialised);
  }
}

void SessionTable::refuse(Session& session, const std::vector<std::uint64_t>& connections,
                          const Status& refused) {
  const std::uint64_t handle = session.handle;
  if (!session.is_initialised) return end(session, refused);
  session.used = Clock::now();
  schedule(session.used + limits_.idle_timeout);
  for (const std::uint64_t connection_id : connections) {
    SessionBinding binding = std::move(session.bindings[connection_id]);
    session.bindings.erase(connection_id);
    answer(binding, error(refused));
    released(binding);
  }
  if (!session.tasks.empty() && !session.is_working) return finish_task(session, refused);
  advance(handle);
}

bool SessionTable::is_on_worker(const Session& session) {
  return session.generation->is_on_worker && slot_of_(session.generation->spec.worker).is_ready() &&
         session.generation->model_id != session.refused_model_id;
}

bool SessionTable::must_wait(const Session& session) {
  bool is_releasing = false;
  bool is_bound = false;
  for (const auto& [connection_id, binding] : session.bindings) {
    if (connection_id == kOwnConnection) continue;  // it has no requests
    is_releasing = is_releasing || binding.state == State::kReleasing;
    is_bound = is_bound || binding.state == State::kBound;
  }
  // One that is bound shares its order with what is bound beside it.
  return is_releasing && !is_bound;
}

void SessionTable::bind(Session& session, std::uint64_t connection_id, bool initialise) {
  WorkerSlot& slot = slot_of_(session.generation->spec.worker);
  session.bindings[connection_id].state = State::kBinding;
  arenas_.map(session.memory.arena_id, slot);
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateBindSession(builder, connection_id, session.handle,
                                       session.generation->model_id, session.memory.arena_id,
                                       builder.CreateVector(session.offsets), initialise,
                                       session.state_bytes);
      },
      {},
      [this, handle = session.handle, connection_id, model_id = session.generation->model_id](
          const link::Message* message) { bound(handle, connection_id, model_id, message); });
  slot.watch_executions();
}

void SessionTable::bound(std::uint64_t handle, std::uint64_t connection_id, std::uint32_t model_id,
                         const link::Message* message) {
  Session* session = find(handle);
  if (session == nullptr) return;
  if (message == nullptr) {  // worker_died() saw to the rest
    if (!session->is_initialised && !session->is_closing) {
      end(*session,
          Status(StatusCode::kUnavailable, "the worker of model '" + session->model + "' died"));
    }
    return;
  }
  const auto found = session->bindings.find(connection_id);
  if (found == session->bindings.end() || found->second.state != State::kBinding) return;
  SessionBinding& binding = found->second;
  if (message->body_as_Acknowledged() != nullptr) {
    session->is_initialised = true;
    binding.state = State::kBound;
    answer(binding, offer_of(*session));
    return advance(handle);
  }
  binding.state = State::kAway;
  if (model_id != session->generation->model_id || session->is_closing) return advance(handle);
  const link::Refused* refused = message->body_as_Refused();
  Status reason = refused != nullptr
                      ? wire::from_wire(refused->status())
                      : Status(StatusCode::kInternal, "the worker gave an unexpected answer");
  if (reason.code() == StatusCode::kNotFound) {
    reason = Status(StatusCode::kUnavailable, reason.message());
    // The model is being unloaded: by its successor, perhaps.
    if (session->is_initialised && arenas_.is_mapped(session->memory.arena_id)) {
      session->refused_model_id = model_id;
      return advance(handle);
    }
  }
  if (!session->is_initialised) return end(*session, reason);
  SessionBinding given_up = std::move(binding);
  session->bindings.erase(found);
  session->used = Clock::now();
  schedule(session->used + limits_.idle_timeout);
  answer(given_up, error(reason));
  released(given_up);
  if (connection_id == kOwnConnection && !session->tasks.empty()) {
    return finish_task(*session, reason);
  }
  advance(handle);
}

void SessionTable::release(Session& session, std::uint64_t connection_id) {
  session.bindings[connection_id].state = State::kReleasing;
  WorkerSlot& slot = slot_of_(session.generation->spec.worker);
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateReleaseSession(builder, connection_id, session.handle);
      },
      {},
      [this, handle = session.handle, connection_id](const link::Message* message) {
        Session* released = find(handle);
        if (message == nullptr || released == nullptr) return;  // worker_died() saw to it
        const auto binding = released->bindings.find(connection_id);
        if (binding != released->bindings.end() && binding->second.state == State::kReleasing) {
          binding->second.state = State::kAway;
          SessionTable::released(binding->second);  // its connection may want it again already
        }
        advance(handle);
      });
}

void SessionTable::end(Session& session, const Status& reason) {
  if (session.is_closing) return;
  const std::uint64_t handle = session.handle;
  session.is_closing = true;
  handles_.erase(session.id);
  if (session.is_initialised && !session.is_shared) ended_.add(session.uid, session.id, reason);
  std::vector<Opened> waiting;
  for (auto& [connection_id, binding] : session.bindings) {
    for (auto& [deadline, opened] : std::exchange(binding.waiting, {})) {
      waiting.push_back(std::move(opened));
    }
  }
  while (session.tasks.size() > (session.is_working ? 1 : 0)) {
    if (session.tasks.back().done) waiting.push_back(std::move(session.tasks.back().done));
    session.tasks.pop_back();
  }
  advance(handle);
  for (const Opened& opened : waiting) opened(error(reason));
}

void SessionTable::free(StateMemory& memory, const Session& session) {
  arenas_.release(memory.arena_id, slot_of_(session.generation->spec.worker));
  memory.bytes.give_back();
}

void SessionTable::erase(std::uint64_t handle) {
  const auto found = sessions_.find(handle);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  free(session.memory, session);
  if (session.checkpoint) free(*session.checkpoint, session);
  const auto closing = std::move(session.closing);
  sessions_.erase(found);
  for (const Closed& closed : closing) closed(Status());
}

std::vector<SessionTable::OperationAtDeath> SessionTable::operations_at_death(
    std::uint32_t worker, const std::vector<ExecutingAtDeath>& executing) const {
  std::vector<OperationAtDeath> operations;
  for (const ExecutingAtDeath& candidate : executing) {
    const auto found = sessions_.find(candidate.session_handle);
    if (found == sessions_.end()) continue;
    const Session& session = found->second;
    if (session.generation->spec.worker != worker ||
        session.generation->model_id != candidate.model_id) {
      continue;
    }
    bool was_asked = false;
    if (candidate.kind == ExecutionKind::kBind) {
      was_asked =
          std::any_of(session.bindings.begin(), session.bindings.end(),
                      [](const auto& item) { return item.second.state == State::kBinding; });
    } else if (candidate.kind != ExecutionKind::kRequest && session.is_working) {
      // One that is not working any more was answered just before.
      const bool is_copy = session.incoming.has_value();
      was_asked = is_copy == (candidate.kind == ExecutionKind::kCopyOut);
    }
    if (was_asked) operations.push_back({session.uid, candidate});
  }
  return operations;
}

bool SessionTable::has_work_for(std::uint32_t worker) const {
  return std::any_of(sessions_.begin(), sessions_.end(), [&](const auto& item) {
    const Session& session = item.second;
    return session.generation->spec.worker == worker &&
           (session.is_working ||
            std::any_of(session.bindings.begin(), session.bindings.end(), [](const auto& binding) {
              return binding.second.state == State::kBinding;
            }));
  });
}

void SessionTable::worker_died(std::uint32_t worker, const std::vector<ChannelEnd>& ends,
                               const std::vector<OperationAtDeath>& operations) {
  for (const ChannelEnd& end : ends) {
    for (const ExecutingAtDeath& request : end.executing) {
      Session* session = find(request.session_handle);
      if (session == nullptr || !session->bindings.contains(end.connection_id) ||
          session->generation->model_id != request.model_id) {
        continue;
      }
      tear(*session, "it was executing a request of it");
    }
  }
  for (const OperationAtDeath& at_death : operations) {
    if (at_death.operation.kind != ExecutionKind::kChange) continue;
    if (Session* session = find(at_death.operation.session_handle)) {
      tear(*session, "an operation was changing it");
    }
  }
  arenas_.worker_lost(worker);
  std::vector<std::uint64_t> handles;
  for (auto& [handle, session] : sessions_) {
    if (session.generation->spec.worker != worker) continue;
    for (auto& [connection_id, binding] : session.bindings) binding.state = State::kAway;
    session.refused_model_id = 0;
    handles.push_back(handle);
  }
  for (const std::uint64_t handle : handles) advance(handle);
}

void SessionTable::tear(Session& session, const std::string& during) {
  const std::string what = session.is_of_model ? "the state of model '" + session.model + "'"
                                               : std::string("the session");
  const std::string how = session.checkpoint ? "reset it or restore its checkpoint" : "reset it";
  std::string mending = "; " + how;
  if (session.is_shared) {
    mending = "; an administrator can " + how + " by the id that the list of sessions shows";
  } else if (session.is_of_model) {
    mending += " by its id, " + session.id;
  }
  session.torn = Status(StatusCode::kFailedPrecondition,
                        what + " is torn: its worker died while " + during + ", and model '" +
                            session.model + "' may have left its state half written" + mending);
  spdlog::warn("a session of uid {} on model '{}' is torn", session.uid, session.model);
  for (auto& [connection_id, binding] : session.bindings) answer(binding, error(*session.torn));
}

void SessionTable::model_changed(const std::string& model, const GenerationPtr& serving,
                                 const std::function<bool(std::uint32_t)>& is_known) {
  std::vector<std::uint64_t> handles;
  for (const auto& [handle, session] : sessions_) {
    if (session.model == model) handles.push_back(handle);
  }
  for (const std::uint64_t handle : handles) {
    Session* session = find(handle);
    if (session == nullptr) continue;
    const bool is_replaced = session->generation != serving;
    if (is_replaced && is_known(session->generation->model_id)) continue;  // not unloaded yet
    if (is_replaced) {
      // The worker has forgotten it, but for what it has not answered yet.
      for (auto& [connection_id, binding] : session->bindings) {
        if (binding.state != State::kBinding) binding.state = State::kAway;
      }
      const bool is_other =
          serving != nullptr && (serving->description->states != session->states ||
                                 serving->spec.worker != session->generation->spec.worker);
      if (serving == nullptr || (is_other && session->is_of_model)) {
        end(*session, Status(StatusCode::kNotFound,
                             "the session ended: model '" + model +
                                 (serving == nullptr ? "' was unloaded, or cannot be loaded again"
                                                     : "' was replaced by one with other states")));
        advance(handle);
        continue;
      }
      if (is_other) {
        session->lost =
            Status(StatusCode::kFailedPrecondition, "the session is lost: model '" + model +
                                                        "' was replaced by one with other states");
        for (auto& [connection_id, binding] : session->bindings) {
          answer(binding, error(*session->lost));
        }
      } else {
        session->generation = serving;
      }
    }
    advance(handle);
  }
}

}  // namespace bucketd::supervisor
