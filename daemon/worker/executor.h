// Executors: the threads that run requests, one a core.
//
// Thread safety: the constructor and destructor are the control thread's.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/status_page.h"

namespace bucketd {

class Executors {
 public:
  // Starts `count` threads (1 to kMaxExecutors). Everything given outlives this.
  Executors(std::size_t count, Backend& backend, Scheduler& scheduler, const StatusPage& status);
  // Waits for them; stop the scheduler before. What runs then is finished.
  ~Executors();
  Executors(const Executors&) = delete;
  Executors& operator=(const Executors&) = delete;

 private:
  std::vector<std::thread> threads_;
};

}  // namespace bucketd
