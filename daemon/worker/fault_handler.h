// Tells the supervisor which executor killed the worker.
#pragma once

#include <signal.h>

#include <cstddef>
#include <memory>

#include "daemon/link/worker_status.h"

namespace bucketd {

// Installs handlers of the signals that a broken model dies of (SIGSEGV, SIGBUS, SIGFPE, SIGILL,
// SIGABRT). They write the faulting executor's number to `status`, which lives as long as the
// process, and leave the signal to whoever handled it before. To be called once.
void install_fault_handler(WorkerStatus& status);

// Marks the thread that holds it as this executor, and gives it a stack for the handler, so that an
// overflow of its own stack is told too.
class ExecutorThreadMark {
 public:
  explicit ExecutorThreadMark(std::size_t executor);
  ~ExecutorThreadMark();
  ExecutorThreadMark(const ExecutorThreadMark&) = delete;
  ExecutorThreadMark& operator=(const ExecutorThreadMark&) = delete;

 private:
  std::unique_ptr<std::byte[]> stack_;
  stack_t before_{};
};

}  // namespace bucketd
