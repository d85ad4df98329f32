// How many slots of which size a lane gets.
#pragma once

#include <cstdint>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

struct SlotPlan {
  LaneLayout layout;
  // Largest payload (tensors without descriptors) of one request.
  std::uint64_t max_request_bytes = 0;
};

// `configured_slots`: the model's own setting; 0: as many as fit into limits.lane_bytes, 2 to 64.
// `requested_slots`: what the client asks for; 0: whatever the daemon gives. It can lower the
// number, and raise it within limits.lane_bytes unless it is configured. Always a power of two.
//
// A slot's inputs are twice what the model's largest bucket takes, so that a request that is a
// little too large reaches the worker, whose refusal names input, dimension and limit; where the
// model takes what its kernel takes, they are limits.max_request_bytes.
Result<SlotPlan> plan_slots(const ModelDescription& model, std::uint32_t configured_slots,
                            std::uint32_t requested_slots, const LimitsConfiguration& limits);

}  // namespace bucketd::supervisor
