// Turns errno into a Status that a person can read.
#pragma once

#include <string_view>

#include "bucketd/status.h"

namespace bucketd {

// "cannot map the channel: Cannot allocate memory (ENOMEM)", with the canonical code nearest to
// `error_number`: RESOURCE_EXHAUSTED for ENOMEM, EMFILE, ENFILE, ENOSPC, EDQUOT; PERMISSION_DENIED
// for EACCES, EPERM; NOT_FOUND for ENOENT; UNAVAILABLE for EAGAIN, ECONNREFUSED, ECONNRESET, EPIPE;
// else INTERNAL. `action` completes "cannot ...".
Status status_from_errno(std::string_view action, int error_number);

}  // namespace bucketd
