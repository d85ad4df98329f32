// WorkerStatus: one page that the worker writes and the supervisor reads at any time, above all
// after the worker's death: what was it executing, for whom, since when?
//
// The supervisor makes the memfd and keeps it over the worker's death. A worker is not trusted with
// more than its own fate: the supervisor checks every index it reads here.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace bucketd {

inline constexpr std::uint32_t kMaxExecutors = 64;

enum class ExecutorState : std::uint32_t { kIdle = 0, kExecuting = 1 };

// A request has a channel and a lane; the others are the supervisor's own, on `session_handle`.
enum class ExecutionKind : std::uint32_t {
  kRequest = 0,
  kBind = 1,     // BindSession: perhaps writes initial values, has views made
  kChange = 2,   // OperateSession that writes the states
  kCopyOut = 3,  // OperateSession that only reads them
};

// What one executor thread does. Written in this order: the fields, then `state` = kExecuting
// (release); at the end `state` = kIdle (release). A reader loads `state` (acquire) first. The
// supervisor reads the rest for decisions only when the worker is dead or seems to hang, when they
// no longer change; a torn read of a living worker is harmless, since it re-reads `started_ns`
// before it acts.
struct alignas(128) ExecutorStatus {
  std::atomic<std::uint32_t> state;
  std::atomic<std::uint32_t> model_id;
  std::atomic<std::uint32_t> lane_id;
  std::atomic<std::uint32_t> bucket;
  std::atomic<std::uint64_t> channel_id;
  std::atomic<std::uint64_t> user_data;
  std::atomic<std::uint64_t> session_handle;
  std::atomic<std::uint64_t> started_ns;  // CLOCK_MONOTONIC
  std::atomic<std::uint64_t> completed;   // requests answered with OK, ever
  std::atomic<std::uint64_t> failed;      // requests answered otherwise, ever
  // Ever: bytes of state copied since a bucket's slice is no view; bytes of functional updates
  // written back into views.
  std::atomic<std::uint64_t> state_bytes_copied;
  std::atomic<std::uint64_t> state_bytes_written_back;
  std::atomic<std::uint32_t> kind;  // ExecutionKind
};

struct WorkerStatus {
  // model_id + 1 of the model that is being loaded or warmed up now; 0: none.
  alignas(128) std::atomic<std::uint32_t> loading;
  // Executor number + 1, set by the worker's handler of fatal signals on the thread that faulted;
  // 0: not known. With several requests executing it tells which of them killed the worker.
  std::atomic<std::uint32_t> faulting_executor;
  ExecutorStatus executors[kMaxExecutors];
};

inline constexpr std::uint64_t kWorkerStatusBytes = 12288;
static_assert(sizeof(WorkerStatus) <= kWorkerStatusBytes);
static_assert(std::is_standard_layout_v<WorkerStatus>);

}  // namespace bucketd
