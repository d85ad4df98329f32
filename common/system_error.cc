#include "common/system_error.h"

#include <cerrno>
#include <cstring>
#include <string>

namespace bucketd {
namespace {

StatusCode code_of(int error_number) {
  switch (error_number) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC:
    case EDQUOT:
    case ENOBUFS:
    case ETOOMANYREFS:  // more descriptors of this user under way than its limit
      return StatusCode::kResourceExhausted;
    case EACCES:
    case EPERM:
      return StatusCode::kPermissionDenied;
    case ENOENT:
      return StatusCode::kNotFound;
    case EAGAIN:
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
      return StatusCode::kUnavailable;
    default:
      return StatusCode::kInternal;
  }
}

}  // namespace

Status status_from_errno(std::string_view action, int error_number) {
  std::string text = "cannot " + std::string(action) + ": ";
  const char* description = ::strerrordesc_np(error_number);
  const char* name = ::strerrorname_np(error_number);
  text += description != nullptr ? description : "unknown error";
  text += " (" + std::string(name != nullptr ? name : std::to_string(error_number)) + ")";
  return Status(code_of(error_number), std::move(text));
}

}  // namespace bucketd
