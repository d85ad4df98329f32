#include "daemon/supervisor/worker_death.h"

#include <signal.h>

#include <cstring>

namespace bucketd::supervisor {

std::string describe_exit(int code, int status) {
  if (code == CLD_EXITED) return "exited with status " + std::to_string(status);
  const char* name = ::sigabbrev_np(status);
  return std::string("was killed by signal ") +
         (name != nullptr ? "SIG" + std::string(name) : std::to_string(status));
}

std::vector<ExecutingAtDeath> read_executing(const WorkerStatus& page) {
  std::vector<ExecutingAtDeath> executing;
  const std::uint32_t faulting = page.faulting_executor.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < kMaxExecutors; ++i) {
    const ExecutorStatus& executor = page.executors[i];
    if (executor.state.load(std::memory_order_acquire) !=
        static_cast<std::uint32_t>(ExecutorState::kExecuting)) {
      continue;
    }
    ExecutingAtDeath request;
    request.executor = i;
    request.model_id = executor.model_id.load(std::memory_order_relaxed);
    request.lane_id = executor.lane_id.load(std::memory_order_relaxed);
    request.channel_id = executor.channel_id.load(std::memory_order_relaxed);
    request.user_data = executor.user_data.load(std::memory_order_relaxed);
    request.session_handle = executor.session_handle.load(std::memory_order_relaxed);
    request.is_culprit = faulting == i + 1;
    executing.push_back(request);
  }
  if (executing.size() == 1) executing.front().is_culprit = true;
  return executing;
}

}  // namespace bucketd::supervisor
