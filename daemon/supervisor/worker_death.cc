#include "daemon/supervisor/worker_death.h"

#include <signal.h>

#include <algorithm>
#include <cstring>

namespace bucketd::supervisor {

std::string describe_exit(int code, int status) {
  if (code == CLD_EXITED) return "exited with status " + std::to_string(status);
  const char* name = ::sigabbrev_np(status);
  return std::string("was killed by signal ") +
         (name != nullptr ? "SIG" + std::string(name) : std::to_string(status));
}

void read_status_page(const WorkerStatus& page, WorkerDeath& death) {
  death.loading_model_id = page.loading.load(std::memory_order_acquire);
  const std::uint32_t faulting = page.faulting_executor.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < kMaxExecutors; ++i) {
    const ExecutorStatus& executor = page.executors[i];
    if (executor.state.load(std::memory_order_acquire) !=
        static_cast<std::uint32_t>(ExecutorState::kExecuting)) {
      continue;
    }
    ExecutingAtDeath request;
    request.executor = i;
    request.kind = static_cast<ExecutionKind>(executor.kind.load(std::memory_order_relaxed));
    request.model_id = executor.model_id.load(std::memory_order_relaxed);
    request.lane_id = executor.lane_id.load(std::memory_order_relaxed);
    request.channel_id = executor.channel_id.load(std::memory_order_relaxed);
    request.user_data = executor.user_data.load(std::memory_order_relaxed);
    request.session_handle = executor.session_handle.load(std::memory_order_relaxed);
    request.is_culprit = faulting == i + 1;
    death.executing.push_back(request);
  }
  if (death.executing.size() == 1 && death.loading_model_id == 0) {
    death.executing.front().is_culprit = true;
  }
}

void blame(std::uint32_t executor, WorkerDeath& death) {
  for (ExecutingAtDeath& request : death.executing) {
    request.is_culprit = request.executor == executor;
  }
}

bool has_culprit(const WorkerDeath& death) {
  return std::any_of(death.executing.begin(), death.executing.end(),
                     [](const ExecutingAtDeath& request) { return request.is_culprit; });
}

std::uint32_t suspect_count(const WorkerDeath& death) {
  if (has_culprit(death)) return 1;
  return static_cast<std::uint32_t>(death.executing.size()) + (death.loading_model_id != 0 ? 1 : 0);
}

}  // namespace bucketd::supervisor
