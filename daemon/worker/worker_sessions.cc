// The Worker's messages about state: arenas, sessions, operations on sessions.
#include <string>

#include "daemon/worker/worker.h"

namespace bucketd {
namespace {

using Offsets = flatbuffers::Vector<std::uint64_t>;

bool lies_within(const StateArena& arena, std::uint64_t offset, std::uint64_t byte_count) {
  return offset % kTensorAlignment == 0 && offset <= arena.size() &&
         byte_count <= arena.size() - offset;
}

// Where a model's states lie in `arena`, one offset for each.
Result<std::vector<TensorView>> place_states(const ModelDescription& model, const StateArena& arena,
                                             const Offsets* offsets) {
  const std::size_t offset_count = offsets != nullptr ? offsets->size() : 0;
  if (offset_count != model.states.size()) {
    return error(StatusCode::kInvalidArgument, std::to_string(offset_count) + " places for the " +
                                                   std::to_string(model.states.size()) +
                                                   " states of model '" + model.name + "'");
  }
  std::vector<TensorView> places;
  for (std::size_t s = 0; s < model.states.size(); ++s) {
    const StateSpec& state = model.states[s];
    const std::uint64_t offset = offsets->Get(static_cast<flatbuffers::uoffset_t>(s));
    const std::optional<std::uint64_t> bytes = state.shape.byte_size(state.dtype);
    if (!bytes || !lies_within(arena, offset, *bytes)) {
      return error(StatusCode::kInvalidArgument,
                   "state '" + state.name + "' at offset " + std::to_string(offset) +
                       " does not lie aligned within a state arena of " +
                       std::to_string(arena.size()) + " bytes");
    }
    places.push_back({state.dtype, state.shape, arena.data() + offset});
  }
  return places;
}

std::optional<StateChange::Kind> kind_of(link::StateOperation operation) {
  switch (operation) {
    case link::StateOperation::kReset:
      return StateChange::Kind::kReset;
    case link::StateOperation::kTruncate:
      return StateChange::Kind::kTruncate;
    case link::StateOperation::kCopyOut:
      return StateChange::Kind::kCopyOut;
    case link::StateOperation::kCopyIn:
      return StateChange::Kind::kCopyIn;
  }
  return std::nullopt;
}

std::string session_text(std::uint64_t handle) { return "session " + std::to_string(handle); }

}  // namespace

void Worker::map_arena(std::uint64_t request_id, const link::MapArena& message, Fds fds) {
  if (fds.size() != 1) {
    return outbox_.refuse(request_id, wrong_descriptor_count("MapArena", 1, fds.size()));
  }
  if (Status status = check_sealed(fds[0].get(), message.byte_size()); !status.ok()) {
    return outbox_.refuse(request_id, status.with_context("state arena"));
  }
  Result<MappedRegion> region = map_memfd(fds[0].get(), message.byte_size(), MapAccess::kReadWrite);
  if (!region) return outbox_.refuse(request_id, region.error().with_context("state arena"));
  const bool added = arenas_
                         .emplace(message.arena_id(), std::make_shared<const StateArena>(
                                                          gone_notice(), std::move(*region)))
                         .second;
  if (!added) {
    return outbox_.refuse(request_id, Status(StatusCode::kAlreadyExists,
                                             "state arena " + std::to_string(message.arena_id()) +
                                                 " is mapped already"));
  }
  acknowledge(request_id);
}

void Worker::unmap_arena(std::uint64_t request_id, const link::UnmapArena& message) {
  Result<std::shared_ptr<const StateArena>> arena = find_arena(message.arena_id());
  if (!arena) return outbox_.refuse(request_id, arena.error());
  const GoneNotice::Flag gone = (*arena)->gone.flag();
  arenas_.erase(message.arena_id());
  when_gone(gone, [this, request_id] { acknowledge(request_id); });
}

Result<std::shared_ptr<const StateArena>> Worker::find_arena(std::uint32_t arena_id) const {
  const auto found = arenas_.find(arena_id);
  if (found != arenas_.end()) return found->second;
  return error(StatusCode::kNotFound, "no state arena has number " + std::to_string(arena_id));
}

Result<std::shared_ptr<Session>> Worker::make_session(const link::BindSession& message) {
  const auto model = models_.find(message.model_id());
  if (model == models_.end()) {
    return error(StatusCode::kNotFound,
                 "no model has number " + std::to_string(message.model_id()));
  }
  const std::uint64_t handle = message.session_handle();
  if (handle == 0) {
    return error(StatusCode::kInvalidArgument, session_text(handle) + " is no session's handle");
  }
  Result<std::shared_ptr<const StateArena>> arena = find_arena(message.arena_id());
  if (!arena) return error(std::move(arena.error()));
  Result<std::vector<TensorView>> states =
      place_states(model->second->description(), **arena, message.offsets());
  if (!states) return error(states.error().with_context(session_text(handle)));
  if (std::shared_ptr<Session> shared = scheduler_->find_shared_session(handle)) {
    bool is_same = shared->model == model->second && shared->arena == *arena;
    for (std::size_t s = 0; is_same && s < states->size(); ++s) {
      is_same = shared->states[s].data == (*states)[s].data;
    }
    if (is_same && !message.initialise()) return shared;
    return error(StatusCode::kInvalidArgument,
                 session_text(handle) + " is bound for another connection" +
                     (is_same ? ", which uses its values" : ", of another model or elsewhere"));
  }
  if (!lies_within(**arena, message.record_offset(), kSessionRecordBytes)) {
    return error(StatusCode::kInvalidArgument,
                 session_text(handle) + ": its record does not lie aligned within its state arena");
  }
  auto* const record = reinterpret_cast<SessionRecord*>((*arena)->data() + message.record_offset());
  return std::make_shared<Session>(handle, model->second, std::move(*arena), std::move(*states),
                                   record);
}

void Worker::bind_session(std::uint64_t request_id, const link::BindSession& message) {
  const std::uint64_t connection_id = message.connection_id();
  const Status bound_already(StatusCode::kAlreadyExists,
                             session_text(message.session_handle()) + " is bound already");
  if (scheduler_->find_session(connection_id, message.session_handle()) != nullptr) {
    return outbox_.refuse(request_id, bound_already);
  }
  Result<std::shared_ptr<Session>> session = make_session(message);
  if (!session) return outbox_.refuse(request_id, session.error());
  const bool is_bound = (*session)->is_bound.load(std::memory_order_relaxed);
  if (!scheduler_->add_session(connection_id, std::move(*session), gone_notice())) {
    return outbox_.refuse(request_id, bound_already);
  }
  // What is bound for another connection is not to wait for that one's requests.
  if (is_bound) return acknowledge(request_id);
  // The backend may take long over it, or die of it: that is for an executor, under its marks.
  const auto operation = std::make_shared<SessionOperation>();
  operation->kind = SessionOperation::Kind::kBind;
  operation->connection_id = connection_id;
  operation->session = scheduler_->find_session(connection_id, message.session_handle());
  operation->initialises = message.initialise();
  operation->answer = [this, request_id, connection_id,
                       handle = message.session_handle()](const Status& status) {
    if (status.ok()) return acknowledge(request_id);
    scheduler_->remove_session(connection_id, handle);
    outbox_.refuse(request_id, status);
  };
  scheduler_->operate(operation);
}

void Worker::release_session(std::uint64_t request_id, const link::ReleaseSession& message) {
  const GoneNotice::Flag gone =
      scheduler_->remove_session(message.connection_id(), message.session_handle());
  when_gone(gone, [this, request_id] { acknowledge(request_id); });
}

void Worker::operate_session(std::uint64_t request_id, const link::OperateSession& message) {
  const std::uint64_t handle = message.session_handle();
  const std::uint64_t connection_id = message.connection_id();
  const auto operation = std::make_shared<SessionOperation>();
  operation->connection_id = connection_id;
  operation->session = scheduler_->find_session(connection_id, handle);
  if (operation->session == nullptr) {
    return outbox_.refuse(
        request_id,
        Status(StatusCode::kNotFound, session_text(handle) + " is not bound for this connection"));
  }
  const std::optional<StateChange::Kind> kind = kind_of(message.operation());
  if (!kind) {
    return outbox_.refuse(request_id,
                          Status(StatusCode::kInvalidArgument,
                                 "no operation on sessions has number " +
                                     std::to_string(static_cast<int>(message.operation()))));
  }
  const ModelDescription& model = operation->session->model->description();
  StateChange& change = operation->change;
  change.kind = *kind;
  change.length = message.length();
  change.current_length = message.current_length();
  if (*kind == StateChange::Kind::kCopyOut || *kind == StateChange::Kind::kCopyIn) {
    Result<std::shared_ptr<const StateArena>> arena = find_arena(message.arena_id());
    if (!arena) return outbox_.refuse(request_id, arena.error());
    const auto places = place_states(model, **arena, message.offsets());
    if (!places) return outbox_.refuse(request_id, places.error());
    for (const TensorView& place : *places) change.places.push_back(place.data);
    operation->arena = std::move(*arena);
  }
  if (Status status = check_change(model, change); !status.ok()) {
    return outbox_.refuse(request_id, status);
  }
  operation->answer = [this, request_id](const Status& status) {
    if (status.ok()) return acknowledge(request_id);
    outbox_.refuse(request_id, status);
  };
  if (streams_ == nullptr) return scheduler_->operate(operation);
  // What the connection sent on its streams comes first.
  streams_->when_read(connection_id, [this, operation] { scheduler_->operate(operation); });
}

}  // namespace bucketd
