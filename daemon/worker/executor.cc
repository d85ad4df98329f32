#include "daemon/worker/executor.h"

#include <pthread.h>

#include <string>

#include "daemon/worker/fault_handler.h"
#include "daemon/worker/request_runner.h"
#include "daemon/worker/session_operation.h"

namespace bucketd {

Executors::Executors(std::size_t count, Backend& backend, Scheduler& scheduler,
                     const StatusPage& status) {
  threads_.reserve(count);
  for (std::size_t executor = 0; executor < count; ++executor) {
    threads_.emplace_back([executor, &backend, &scheduler, &status] {
      ::pthread_setname_np(::pthread_self(), ("executor-" + std::to_string(executor)).c_str());
      const ExecutorThreadMark mark(executor);
      backend.prepare_executor_thread(executor);
      RequestRunner runner(executor, status);
      Job job;
      while (scheduler.next(job)) {
        if (job.operation != nullptr) {
          run_operation(executor, status, *job.operation);
        } else {
          runner.run(job);
        }
        scheduler.finish(job);
      }
    });
  }
}

Executors::~Executors() {
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace bucketd
