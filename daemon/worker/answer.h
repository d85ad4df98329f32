// Answers to requests that were not run, or failed.
//
// Thread safety: any thread, for a request that belongs to the caller.
#pragma once

#include <cstdint>

#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "daemon/worker/lane.h"

namespace bucketd {

// A completion for `submission` with everything unset but what is echoed.
CompletionEntry make_completion(const SubmissionEntry& submission);

// Publishes `completion` with `status` (not ok), its text (cut at kMaxMessageBytes, never within a
// character) in the slot's output area.
void answer_error(Lane& lane, CompletionEntry completion, const Status& status);

}  // namespace bucketd
