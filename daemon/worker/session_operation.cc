#include "daemon/worker/session_operation.h"

#include "daemon/worker/monotonic_clock.h"

namespace bucketd {

void run_operation(std::size_t executor, const StatusPage& status, SessionOperation& operation) {
  const Session& session = *operation.session;
  const bool only_reads = operation.change.kind == StateChange::Kind::kCopyOut;
  // No lane and no channel: it is the supervisor's own.
  status.begin(executor,
               {.model_id = session.model->id,
                .session_handle = only_reads ? 0 : session.handle,
                .started_ns = monotonic_ns()},
               kNoBucket);
  operation.answer(make_change(*session.model->model, session.states, operation.change));
  // After the answer, as for requests.
  status.end(executor);
}

}  // namespace bucketd
