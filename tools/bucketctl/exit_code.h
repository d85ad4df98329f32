// What bucketctl returns to the shell; the table is in ../README.md.
#pragma once

#include "bucketd/status.h"

namespace bucketd {

enum class ExitCode : int {
  kOk = 0,
  kRequestFailed = 1,      // the daemon, or a file, said no
  kUsage = 2,              // wrong arguments; nothing was sent
  kDaemonUnreachable = 3,  // no daemon on the socket, or it went away
  kNotFound = 4,           // no such model, artifact or file
  kPermissionDenied = 5,
  kTimedOut = 6,
};

ExitCode exit_code_of(StatusCode code);

}  // namespace bucketd
