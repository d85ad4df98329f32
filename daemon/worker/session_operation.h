// SessionOperation: what is done to a session as a whole, which waits for its turn in the session's
// order, as a request would: a change of its states, or its binding.
//
// Ownership: the Scheduler holds it while it is queued or runs. It holds its session's binding, so
// that a release waits for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/worker/request_queue.h"
#include "daemon/worker/session.h"
#include "daemon/worker/state_change.h"
#include "daemon/worker/status_page.h"

namespace bucketd {

struct SessionOperation : std::enable_shared_from_this<SessionOperation> {
  enum class Kind { kChange, kBind };
  // Constant once it is queued.
  Kind kind = Kind::kChange;
  std::uint64_t connection_id = 0;
  std::shared_ptr<Session> session;
  bool initialises = false;  // kBind
  StateChange change;        // kChange; was checked; its places lie in `arena` (null: none)
  std::shared_ptr<const StateArena> arena;
  // Called once, on any thread and without locks; not when the worker ends before.
  std::function<void(const Status&)> answer;

  // Guarded by the Scheduler's mutex.
  QueuedRequest queued;
  std::shared_ptr<ClientQueue> client;
};

// Runs and answers it, on the thread of `executor`. The status page names the session meanwhile,
// and says what is done to it: a death while it is changed leaves it torn.
void run_operation(std::size_t executor, const StatusPage& status, SessionOperation& operation);

}  // namespace bucketd
