// The Worker's messages about state: arenas and sessions.
#include <string>

#include "daemon/worker/worker.h"

namespace bucketd {

void Worker::map_arena(std::uint64_t request_id, const link::MapArena& message, Fds fds) {
  if (fds.size() != 1) {
    return outbox_.refuse(request_id, wrong_descriptor_count("MapArena", 1, fds.size()));
  }
  if (Status status = check_sealed(fds[0].get(), message.byte_size()); !status.ok()) {
    return outbox_.refuse(request_id, status.with_context("state arena"));
  }
  Result<MappedRegion> region = map_memfd(fds[0].get(), message.byte_size(), MapAccess::kReadWrite);
  if (!region) return outbox_.refuse(request_id, region.error().with_context("state arena"));
  const bool added =
      arenas_.emplace(message.arena_id(), std::make_shared<const MappedRegion>(std::move(*region)))
          .second;
  if (!added) {
    return outbox_.refuse(request_id, Status(StatusCode::kAlreadyExists,
                                             "state arena " + std::to_string(message.arena_id()) +
                                                 " is mapped already"));
  }
  acknowledge(request_id);
}

Result<std::shared_ptr<Session>> Worker::make_session(const link::BindSession& message) {
  const auto model = models_.find(message.model_id());
  if (model == models_.end()) {
    return error(StatusCode::kNotFound,
                 "no model has number " + std::to_string(message.model_id()));
  }
  const auto arena = arenas_.find(message.arena_id());
  if (arena == arenas_.end()) {
    return error(StatusCode::kNotFound,
                 "no state arena has number " + std::to_string(message.arena_id()));
  }
  const std::vector<StateSpec>& specs = model->second->description().states;
  const std::size_t offset_count = message.offsets() != nullptr ? message.offsets()->size() : 0;
  if (message.session_handle() == 0 || offset_count != specs.size()) {
    return error(StatusCode::kInvalidArgument,
                 "session " + std::to_string(message.session_handle()) + " has " +
                     std::to_string(offset_count) + " places for the " +
                     std::to_string(specs.size()) + " states of model '" +
                     model->second->description().name + "'");
  }
  std::vector<TensorView> states;
  for (std::size_t s = 0; s < specs.size(); ++s) {
    const std::uint64_t offset = message.offsets()->Get(static_cast<flatbuffers::uoffset_t>(s));
    const std::optional<std::uint64_t> bytes = specs[s].shape.byte_size(specs[s].dtype);
    const std::uint64_t size = arena->second->get_size();
    if (!bytes || offset % kTensorAlignment != 0 || offset > size || *bytes > size - offset) {
      return error(StatusCode::kInvalidArgument,
                   "state '" + specs[s].name + "' at offset " + std::to_string(offset) +
                       " does not lie aligned within a state arena of " + std::to_string(size) +
                       " bytes");
    }
    states.push_back({specs[s].dtype, specs[s].shape,
                      static_cast<std::byte*>(arena->second->get_address()) + offset});
  }
  if (message.initialise()) {
    if (Status status = model->second->model->initialise_states(states); !status.ok()) {
      return error(std::move(status));
    }
  }
  Result<std::unique_ptr<BoundStates>> bound = model->second->model->bind_states(states);
  if (!bound) return error(std::move(bound.error()));
  return std::make_shared<Session>(gone_notice(), message.connection_id(), message.session_handle(),
                                   model->second, arena->second, std::move(states),
                                   std::move(*bound));
}

void Worker::bind_session(std::uint64_t request_id, const link::BindSession& message) {
  Result<std::shared_ptr<Session>> session = make_session(message);
  if (!session) return outbox_.refuse(request_id, session.error());
  if (!scheduler_->add_session(std::move(*session))) {
    return outbox_.refuse(request_id, Status(StatusCode::kAlreadyExists,
                                             "session " + std::to_string(message.session_handle()) +
                                                 " is bound already"));
  }
  acknowledge(request_id);
}

void Worker::release_session(std::uint64_t request_id, const link::ReleaseSession& message) {
  GoneNotice::Flag gone;
  if (const std::shared_ptr<Session> session =
          scheduler_->remove_session(message.connection_id(), message.session_handle())) {
    gone = session->gone.flag();
  }
  pending_.push_back([this, request_id, gone] {
    if (gone != nullptr && !gone->load(std::memory_order_acquire)) return false;
    acknowledge(request_id);
    return true;
  });
}

}  // namespace bucketd
