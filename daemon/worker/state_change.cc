#include "daemon/worker/state_change.h"

#include <algorithm>
#include <cstring>

#include "common/truncation.h"

namespace bucketd {
namespace {

void truncate(const StateSpec& spec, const TensorView& state, const std::byte* initial,
              const StateChange& change) {
  const std::size_t dim = *spec.sequence_dim;
  std::size_t rows = 1;
  std::size_t position_bytes = dtype_size_bytes(spec.dtype);
  for (std::size_t d = 0; d < spec.shape.rank(); ++d) {
    const auto size = static_cast<std::size_t>(spec.shape[d]);
    if (d < dim) rows *= size;
    if (d > dim) position_bytes *= size;
  }
  const auto size = static_cast<std::size_t>(spec.shape[dim]);
  const auto kept = static_cast<std::size_t>(change.length);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t begin = row * size * position_bytes;
    std::byte* const at = state.data + begin;
    const std::byte* const fresh = initial + begin;
    const std::size_t freed_bytes = (size - kept) * position_bytes;
    if (spec.align == PadSide::kRight) {
      std::memcpy(at + kept * position_bytes, fresh + kept * position_bytes, freed_bytes);
      continue;
    }
    const std::size_t used = static_cast<std::size_t>(change.current_length);
    std::memmove(at + freed_bytes, at + (size - used) * position_bytes, kept * position_bytes);
    std::memcpy(at, fresh, freed_bytes);
  }
}

}  // namespace

Status check_change(const ModelDescription& model, const StateChange& change) {
  if (change.kind != StateChange::Kind::kTruncate) return Status();
  return check_truncation(model.name, model.states, change.length, change.current_length);
}

Status make_change(BucketModel& model, std::span<const TensorView> states,
                   const StateChange& change) {
  if (change.kind == StateChange::Kind::kReset) return model.initialise_states(states);
  const std::vector<StateSpec>& specs = model.description().states;
  for (std::size_t s = 0; s < states.size(); ++s) {
    const std::uint64_t bytes = *specs[s].shape.byte_size(specs[s].dtype);
    if (bytes == 0) continue;
    switch (change.kind) {
      case StateChange::Kind::kTruncate:
        if (specs[s].sequence_dim) truncate(specs[s], states[s], model.initial_state(s), change);
        break;
      case StateChange::Kind::kCopyOut:
        std::memcpy(change.places[s], states[s].data, bytes);
        break;
      case StateChange::Kind::kCopyIn:
        std::memcpy(states[s].data, change.places[s], bytes);
        break;
      case StateChange::Kind::kReset:
        break;
    }
  }
  return Status();
}

}  // namespace bucketd
