// Whether a session's states can be cut to a length: the rule of OperateSession kTruncate
// (wire/control.fbs), for the supervisor before it asks the worker, and for the worker before it
// writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"

namespace bucketd {

// `length`: positions to keep; `current_length`: positions in use, -1 when the client did not say.
// FAILED_PRECONDITION when no state names its sequence dim; OUT_OF_RANGE when one is shorter, or
// more is to be kept than is in use; INVALID_ARGUMENT when `current_length` is missing for a state
// whose positions end at the end.
Status check_truncation(const std::string& model, const std::vector<StateSpec>& states,
                        std::int64_t length, std::int64_t current_length);

}  // namespace bucketd
