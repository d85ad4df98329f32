// Where the views lie that a session keeps: for tests that no state is copied. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <vector>

#include "daemon/backends/backend.h"

namespace bucketd::torchscript {

// The first byte of each state's view that `states` (of this backend) keeps for `bucket`; empty if
// it keeps none.
std::vector<const std::byte*> kept_view_addresses(const BoundStates& states, std::size_t bucket);

}  // namespace bucketd::torchscript
