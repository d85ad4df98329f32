#include "tools/bucketctl/exit_code.h"

namespace bucketd {

ExitCode exit_code_of(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return ExitCode::kOk;
    case StatusCode::kUnavailable:
      return ExitCode::kDaemonUnreachable;
    case StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case StatusCode::kPermissionDenied:
      return ExitCode::kPermissionDenied;
    case StatusCode::kDeadlineExceeded:
      return ExitCode::kTimedOut;
    default:
      return ExitCode::kRequestFailed;
  }
}

}  // namespace bucketd
