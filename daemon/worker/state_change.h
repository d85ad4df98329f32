// StateChange: what is done to a session's states as a whole.
//
// Thread safety: functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "daemon/backends/backend.h"

namespace bucketd {

struct StateChange {
  enum class Kind {
    kReset,     // to the initial values
    kTruncate,  // to `length` positions along each state's sequence dim
    kCopyOut,   // to `places`
    kCopyIn,    // from `places`
  };
  Kind kind = Kind::kReset;
  std::int64_t length = 0;
  // How many positions are in use: needed where states are right-aligned, -1: not known.
  std::int64_t current_length = -1;
  std::vector<std::byte*> places = {};  // one for each state, of its size
};

// Whether the change can be made to sessions of `model`.
// Errors: as check_truncation(), common/truncation.h.
Status check_change(const ModelDescription& model, const StateChange& change);

// Makes a checked change. `states`: full buffers, in the order of the model's. A truncated state
// has its initial values in all positions but those that are kept: of a left-aligned one the first
// `length`; of a right-aligned one the first `length` of the last `current_length`, which move to
// the end.
// Errors: what the backend says.
Status make_change(BucketModel& model, std::span<const TensorView> states,
                   const StateChange& change);

}  // namespace bucketd
