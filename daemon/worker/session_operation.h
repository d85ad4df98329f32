// SessionOperation: a change of a session's states that waits for its turn in the session's order,
// as a request would.
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
  // Constant once it is queued. `change` was checked; its places lie in `arena` (null: none).
  std::uint64_t connection_id = 0;
  std::shared_ptr<Session> session;
  StateChange change;
  std::shared_ptr<const StateArena> arena;
  // Called once, on any thread and without locks; not when the worker ends before.
  std::function<void(const Status&)> answer;

  // Guarded by the Scheduler's mutex.
  QueuedRequest queued;
  std::shared_ptr<ClientQueue> client;
};

// Runs and answers it, on the thread of `executor`. The status page names the session while it is
// being changed: who dies meanwhile leaves it torn. While it is only read the page names no
// session.
void run_operation(std::size_t executor, const StatusPage& status, SessionOperation& operation);

}  // namespace bucketd
