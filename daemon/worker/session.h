// Session: the state memory of one session as requests use it, and the order of its requests.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/memfd.h"
#include "daemon/worker/gone_notice.h"
#include "daemon/worker/loaded_model.h"
#include "daemon/worker/request_queue.h"

namespace bucketd {

struct Session {
  // `state_views`: full buffers in `state_arena`, in the order of the model's states;
  // `bound_states`: made of them.
  Session(GoneNotice gone_notice, std::uint64_t connection, std::uint64_t session_handle,
          std::shared_ptr<LoadedModel> loaded_model,
          std::shared_ptr<const MappedRegion> state_arena, std::vector<TensorView> state_views,
          std::unique_ptr<BoundStates> bound_states)
      : gone(std::move(gone_notice)),
        connection_id(connection),
        handle(session_handle),
        model(std::move(loaded_model)),
        arena(std::move(state_arena)),
        states(std::move(state_views)),
        bound(std::move(bound_states)) {}

  // Constant. Only the executor that runs the session's present request touches the states' memory
  // and `bound`.
  GoneNotice gone;
  const std::uint64_t connection_id;
  const std::uint64_t handle;
  const std::shared_ptr<LoadedModel> model;
  const std::shared_ptr<const MappedRegion> arena;
  const std::vector<TensorView> states;
  const std::unique_ptr<BoundStates> bound;

  // Guarded by the Scheduler's mutex.
  SessionOrder order;
};

}  // namespace bucketd
