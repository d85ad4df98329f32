// WorkerDeath: what is known once a worker was reaped, and how it is told to people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/link/worker_status.h"

namespace bucketd::supervisor {

// One request, or operation on a session, that was executing when its worker died, as the status
// page says. Nothing here is checked against channels, sessions or models yet.
struct ExecutingAtDeath {
  std::uint32_t executor = 0;
  ExecutionKind kind = ExecutionKind::kRequest;
  std::uint32_t model_id = 0;
  std::uint32_t lane_id = 0;
  std::uint64_t channel_id = 0;
  std::uint64_t user_data = 0;
  std::uint64_t session_handle = 0;
  bool is_culprit = false;  // known to have caused the death
};

struct WorkerDeath {
  std::string cause;                   // "was killed by signal SIGSEGV", "exited with status 1"
  bool by_supervisor = false;          // killed for the supervisor's own reasons: nobody's fault
  std::uint32_t loading_model_id = 0;  // model_id + 1 of the model that was being loaded; 0: none
  std::vector<ExecutingAtDeath> executing;
};

// "was killed by signal SIGSEGV", "exited with status 3". `code` and `status`: si_code and
// si_status of waitid(2).
std::string describe_exit(int code, int status);

// What the page of a dead worker tells: `executing`, `loading_model_id`. An executor is a culprit
// if its thread is known to have faulted, or if nothing else was going on, neither on another
// executor nor in loading a model.
void read_status_page(const WorkerStatus& page, WorkerDeath& death);

// Names executor `executor` as the only culprit: it was found hanging.
void blame(std::uint32_t executor, WorkerDeath& death);

// Whether a culprit is known.
bool has_culprit(const WorkerDeath& death);

// How many could have caused the death: 1 when a culprit is known, else everything that was going
// on.
std::uint32_t suspect_count(const WorkerDeath& death);

}  // namespace bucketd::supervisor
