#include "daemon/worker/session_operation.h"

#include "common/monotonic_clock.h"

namespace bucketd {
namespace {

ExecutionKind kind_of(const SessionOperation& operation) {
  if (operation.kind == SessionOperation::Kind::kBind) return ExecutionKind::kBind;
  return operation.change.kind == StateChange::Kind::kCopyOut ? ExecutionKind::kCopyOut
                                                              : ExecutionKind::kChange;
}

}  // namespace

void run_operation(std::size_t executor, const StatusPage& status, SessionOperation& operation) {
  Session& session = *operation.session;
  // No lane and no channel: it is the supervisor's own.
  status.begin(executor,
               {.model_id = session.model->id,
                .session_handle = session.handle,
                .started_ns = monotonic_ns(),
                .kind = kind_of(operation)},
               kNoBucket);
  operation.answer(operation.kind == SessionOperation::Kind::kBind
                       ? session.bind(operation.initialises)
                       : make_change(*session.model->model, session.states, operation.change));
  // After the answer, as for requests.
  status.end(executor);
}

}  // namespace bucketd
