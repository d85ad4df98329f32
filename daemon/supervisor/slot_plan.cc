#include "daemon/supervisor/slot_plan.h"

#include <algorithm>
#include <bit>
#include <string>

namespace bucketd::supervisor {
namespace {

constexpr std::uint64_t kMinDefaultSlots = 2;
constexpr std::uint64_t kMaxDefaultSlots = 64;
// Descriptors that a slot has room for beyond the model's inputs: a request with too many inputs is
// to get the worker's own error.
constexpr std::size_t kSpareDescriptors = 4;

}  // namespace

Result<SlotPlan> plan_slots(const ModelDescription& model, std::uint32_t configured_slots,
                            std::uint32_t requested_slots, const LimitsConfiguration& limits) {
  const std::optional<std::uint64_t> inputs = largest_input_bytes(model);
  const std::optional<std::uint64_t> outputs = largest_output_bytes(model);
  if (!inputs || !outputs || *inputs > kMaxSlotBytes / 4 || *outputs > kMaxSlotBytes / 2) {
    return error(StatusCode::kResourceExhausted,
                 "model '" + model.name + "' has inputs or outputs above " +
                     std::to_string(kMaxSlotBytes / 4) + " bytes; no lane can hold them");
  }
  SlotPlan plan;
  plan.max_request_bytes = model.checks_inputs ? std::max<std::uint64_t>(2 * *inputs, kPageBytes)
                                               : limits.max_request_bytes;
  const std::uint64_t input_bytes =
      input_payload_offset(model.inputs.size() + kSpareDescriptors) + plan.max_request_bytes;
  const std::uint64_t output_bytes = std::max<std::uint64_t>(
      output_payload_offset(model.outputs.size(), model.inputs.size()) + *outputs,
      kMaxMessageBytes);
  const std::uint64_t slot_bytes =
      *align_up(input_bytes, kPageBytes) + *align_up(output_bytes, kPageBytes);
  const std::uint64_t affordable =
      std::bit_floor(std::clamp<std::uint64_t>(limits.lane_bytes / slot_bytes, 1, kMaxSlots));
  std::uint64_t slots = std::clamp(affordable, kMinDefaultSlots, kMaxDefaultSlots);
  std::uint64_t most = std::max(slots, affordable);
  if (configured_slots != 0) {
    slots = std::bit_ceil(std::min<std::uint64_t>(configured_slots, kMaxSlots));
    most = slots;
  }
  if (requested_slots != 0) {
    slots = std::min<std::uint64_t>(
        std::bit_ceil(std::min<std::uint64_t>(requested_slots, kMaxSlots)), most);
  }
  Result<LaneLayout> layout =
      make_lane_layout(static_cast<std::uint32_t>(slots), input_bytes, output_bytes);
  if (!layout) return error(layout.error());
  plan.layout = *layout;
  return plan;
}

}  // namespace bucketd::supervisor
