// Session: the state memory of one session as requests use it, and the order of its requests.
//
// Connections that bound the same handle share one Session: same state, one order. Each holds it
// by a SessionBinding of its own, which lasts until nothing of that connection uses it any more.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/link/session_record.h"
#include "daemon/worker/gone_notice.h"
#include "daemon/worker/loaded_model.h"
#include "daemon/worker/request_queue.h"
#include "daemon/worker/state_arena.h"

namespace bucketd {

struct Session {
  // `state_views`: full buffers in `state_arena`, in the order of the model's states;
  // `session_record`: in it, too; null: nothing is recorded.
  Session(std::uint64_t session_handle, std::shared_ptr<LoadedModel> loaded_model,
          std::shared_ptr<const StateArena> state_arena, std::vector<TensorView> state_views,
          SessionRecord* session_record)
      : handle(session_handle),
        model(std::move(loaded_model)),
        arena(std::move(state_arena)),
        states(std::move(state_views)),
        record(session_record) {}

  // Has the backend bind the states, after it wrote initial values there if `initialises`. Nothing
  // is done if they are bound already. Errors: what the backend says.
  Status bind(bool initialises);

  // Constant. Only the executor that runs the session's present request or operation touches the
  // memory of states and record.
  const std::uint64_t handle;
  const std::shared_ptr<LoadedModel> model;
  const std::shared_ptr<const StateArena> arena;
  const std::vector<TensorView> states;
  SessionRecord* const record;

  // Of `states`, null until they are bound. Only that executor touches it.
  std::unique_ptr<BoundStates> bound;
  // Whether `bound` is there, for other threads: it is only ever set.
  std::atomic<bool> is_bound{false};

  // Guarded by the Scheduler's mutex.
  SessionOrder order;
  std::size_t binding_count = 0;  // connections that have it bound
};

// One connection's hold. Requests have a pointer to the session that keeps this alive.
struct SessionBinding {
  SessionBinding(GoneNotice gone_notice, std::shared_ptr<Session> bound_session)
      : gone(std::move(gone_notice)), session(std::move(bound_session)) {}

  GoneNotice gone;
  const std::shared_ptr<Session> session;
};

}  // namespace bucketd
