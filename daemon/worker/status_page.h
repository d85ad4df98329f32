// StatusPage: our side of daemon/link/worker_status.h: what each executor does, for the supervisor
// to read after our death.
//
// Thread safety: begin, set_bucket, the counts and end by the executor itself; set_loading by the
// thread that loads.
#pragma once

#include <cstdint>
#include <utility>

#include "common/memfd.h"
#include "daemon/backends/backend.h"
#include "daemon/link/worker_status.h"

namespace bucketd {

class StatusPage {
 public:
  // Maps the page that the supervisor sent.
  static Result<StatusPage> open(const UniqueFd& memfd) {
    if (Status status = check_sealed(memfd.get(), kWorkerStatusBytes); !status.ok()) {
      return error(status.with_context("the worker status page"));
    }
    Result<MappedRegion> region = map_memfd(memfd.get(), kWorkerStatusBytes, MapAccess::kReadWrite);
    if (!region) return error(region.error());
    return StatusPage(std::move(*region));
  }

  WorkerStatus& page() const { return *static_cast<WorkerStatus*>(region_.get_address()); }

  struct Execution {
    std::uint32_t model_id = 0;
    std::uint32_t lane_id = 0;
    std::uint64_t channel_id = 0;
    std::uint64_t user_data = 0;
    std::uint64_t session_handle = 0;
    std::uint64_t started_ns = 0;
    ExecutionKind kind = ExecutionKind::kRequest;
  };

  void begin(std::size_t executor, const Execution& execution, std::uint32_t bucket) const {
    ExecutorStatus& status = page().executors[executor];
    status.model_id.store(execution.model_id, std::memory_order_relaxed);
    status.lane_id.store(execution.lane_id, std::memory_order_relaxed);
    status.bucket.store(bucket, std::memory_order_relaxed);
    status.channel_id.store(execution.channel_id, std::memory_order_relaxed);
    status.user_data.store(execution.user_data, std::memory_order_relaxed);
    status.session_handle.store(execution.session_handle, std::memory_order_relaxed);
    status.started_ns.store(execution.started_ns, std::memory_order_relaxed);
    status.kind.store(static_cast<std::uint32_t>(execution.kind), std::memory_order_relaxed);
    // Release: pairs with the supervisor's acquire of `state`; it then sees the fields.
    status.state.store(static_cast<std::uint32_t>(ExecutorState::kExecuting),
                       std::memory_order_release);
  }

  void set_bucket(std::size_t executor, std::uint32_t bucket) const {
    page().executors[executor].bucket.store(bucket, std::memory_order_relaxed);
  }

  // Counts one answer.
  void count(std::size_t executor, bool ok) const {
    ExecutorStatus& status = page().executors[executor];
    (ok ? status.completed : status.failed).fetch_add(1, std::memory_order_relaxed);
  }

  void count_traffic(std::size_t executor, const StateTraffic& traffic) const {
    ExecutorStatus& status = page().executors[executor];
    if (traffic.bytes_copied > 0) {
      status.state_bytes_copied.fetch_add(traffic.bytes_copied, std::memory_order_relaxed);
    }
    if (traffic.bytes_written_back > 0) {
      status.state_bytes_written_back.fetch_add(traffic.bytes_written_back,
                                                std::memory_order_relaxed);
    }
  }

  void end(std::size_t executor) const {
    page().executors[executor].state.store(static_cast<std::uint32_t>(ExecutorState::kIdle),
                                           std::memory_order_release);
  }

  // `model_id_plus_1`: 0 when nothing is being loaded.
  void set_loading(std::uint32_t model_id_plus_1) const {
    page().loading.store(model_id_plus_1, std::memory_order_release);
  }

 private:
  explicit StatusPage(MappedRegion region) : region_(std::move(region)) {}
  MappedRegion region_;
};

}  // namespace bucketd
