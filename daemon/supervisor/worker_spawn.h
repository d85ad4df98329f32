// Starting a worker's process.
#pragma once

#include <sys/types.h>

#include <string>

#include "bucketd/status.h"
#include "common/fd.h"

namespace bucketd::supervisor {

struct SpawnedProcess {
  pid_t pid = 0;
  UniqueFd pidfd;
};

// Executes `executable --socket-fd 3` with `socket` as descriptor 3, /dev/null as stdin, stderr as
// stdout, and no other descriptor; in a process group of its own; with default signal dispositions;
// without the service manager's variables; killed when the calling thread ends.
// Errors: NOT_FOUND, PERMISSION_DENIED and so on when it cannot be executed; no process is left
// then.
Result<SpawnedProcess> spawn_worker(const std::string& executable, int socket);

}  // namespace bucketd::supervisor
