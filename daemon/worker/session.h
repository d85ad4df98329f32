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
  Session(GoneNotice gone_notice, std::uint64_t connection, std::uint64_t session_handle,
          std::shared_ptr<LoadedModel> loaded_model,
          std::shared_ptr<const MappedRegion> state_arena, std::vector<TensorView> state_views)
      : gone(std::move(gone_notice)),
        connection_id(connection),
        handle(session_handle),
        model(std::move(loaded_model)),
        arena(std::move(state_arena)),
        states(std::move(state_views)) {}

  // Constant. `states` are full buffers in `arena`, in the order of the model's states. Only the
  // executor that runs the session's present request touches them.
  GoneNotice gone;
  const std::uint64_t connection_id;
  const std::uint64_t handle;
  const std::shared_ptr<LoadedModel> model;
  const std::shared_ptr<const MappedRegion> arena;
  const std::vector<TensorView> states;

  // Guarded by the Scheduler's mutex.
  SessionOrder order;
};

}  // namespace bucketd
