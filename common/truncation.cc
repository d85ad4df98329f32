#include "common/truncation.h"

namespace bucketd {

Status check_truncation(const std::string& model, const std::vector<StateSpec>& states,
                        std::int64_t length, std::int64_t current_length) {
  const std::string what = "cannot truncate a session of model '" + model + "': ";
  bool has_sequence = false;
  for (const StateSpec& state : states) {
    if (!state.sequence_dim) continue;
    has_sequence = true;
    const std::int64_t size = state.shape[*state.sequence_dim];
    const std::string limit = " (state '" + state.name + "' has " + std::to_string(size) +
                              " along its sequence dim " + std::to_string(*state.sequence_dim) +
                              ")";
    if (length < 0 || length > size) {
      return Status(StatusCode::kOutOfRange, what + "'length' is " + std::to_string(length) +
                                                 "; it can be 0 to " + std::to_string(size) +
                                                 limit);
    }
    if (state.align == PadSide::kLeft && current_length < 0) {
      return Status(StatusCode::kInvalidArgument,
                    what + "state '" + state.name +
                        "' is right-aligned, so 'current_length', the number of positions in use, "
                        "is needed");
    }
    if (current_length > size) {
      return Status(StatusCode::kOutOfRange,
                    what + "'current_length' is " + std::to_string(current_length) +
                        "; it can be at most " + std::to_string(size) + limit);
    }
    if (current_length >= 0 && length > current_length) {
      return Status(StatusCode::kOutOfRange, what + "'length' is " + std::to_string(length) +
                                                 ", above 'current_length', " +
                                                 std::to_string(current_length));
    }
  }
  if (has_sequence) return Status();
  return Status(StatusCode::kFailedPrecondition,
                what + "its artifact names the sequence dim of no state; reset it instead");
}

}  // namespace bucketd
