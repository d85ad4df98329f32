// Forwarding: follows data through temporaries, so that each element is moved once.
//
// Thread safety: functions without state.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/plans/moves.h"
#include "daemon/plans/regions.h"

namespace bucketd {

// What every kOutput buffer of `list` holds in the end, in the order of their indices, in terms of
// inputs and constants. Every output has its buffer. `list.constants` stay as they are.
//
// Nothing when that cannot be told box by box: a view that runs diagonally through a buffer, a copy
// with two conversions of which neither keeps every number, too many boxes. The list as recorded is
// right all the same.
std::optional<std::vector<Regions>> forward_moves(const MoveList& list, std::size_t output_count);

// The index of an output of which the moves of `list`, in order, leave an element unwritten, or
// give it one that nothing wrote. Looks at every element.
std::optional<std::uint32_t> find_unwritten_output(const MoveList& list);

// Without the moves into temporaries that no output needs.
void drop_dead_moves(MoveList& list);

}  // namespace bucketd
