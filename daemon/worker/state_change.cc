#include "daemon/worker/state_change.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace bucketd {
namespace {

Status bad_truncation(StatusCode code, const ModelDescription& model, const StateSpec& state,
                      const std::string& what) {
  return Status(code, "model '" + model.name + "', state '" + state.name + "': " + what);
}

Status check_truncation(const ModelDescription& model, const StateChange& change) {
  bool some_has_sequence = false;
  for (const StateSpec& state : model.states) {
    if (!state.sequence_dim) continue;
    some_has_sequence = true;
    const std::int64_t size = state.shape[*state.sequence_dim];
    const std::string of_size = " of its " + std::to_string(size) + " positions along dimension " +
                                std::to_string(*state.sequence_dim);
    if (change.length < 0) {
      return bad_truncation(StatusCode::kInvalidArgument, model, state,
                            "it cannot be truncated to " + std::to_string(change.length) + of_size);
    }
    if (change.length > size) {
      return bad_truncation(StatusCode::kOutOfRange, model, state,
                            "it cannot be truncated to " + std::to_string(change.length) + of_size);
    }
    if (state.align == PadSide::kRight) continue;
    if (change.current_length < 0) {
      return bad_truncation(
          StatusCode::kInvalidArgument, model, state,
          "it is right-aligned: truncating it needs to know how many" + of_size + " are in use");
    }
    if (change.current_length > size || change.length > change.current_length) {
      return bad_truncation(StatusCode::kOutOfRange, model, state,
                            "it cannot be truncated from " + std::to_string(change.current_length) +
                                " to " + std::to_string(change.length) + of_size);
    }
  }
  if (some_has_sequence) return Status();
  return Status(StatusCode::kFailedPrecondition,
                "model '" + model.name +
                    "': none of its states names its sequence dim, so that it is not known what "
                    "to truncate");
}

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
  if (change.kind == StateChange::Kind::kTruncate) return check_truncation(model, change);
  return Status();
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
