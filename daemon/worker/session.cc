#include "daemon/worker/session.h"

namespace bucketd {

Status Session::bind(bool initialises) {
  if (bound != nullptr) return Status();
  BucketModel& backend_model = *model->model;
  if (initialises) {
    if (Status status = backend_model.initialise_states(states); !status.ok()) return status;
  }
  Result<std::unique_ptr<BoundStates>> made = backend_model.bind_states(states);
  if (!made) return made.error();
  bound = std::move(*made);
  is_bound.store(true, std::memory_order_relaxed);
  return Status();
}

}  // namespace bucketd
