#include "common/channel_layout.h"

#include <algorithm>
#include <bit>
#include <string>

namespace bucketd {
namespace {

Result<std::uint64_t> region_bytes(std::uint64_t slots_offset, std::uint64_t slot_bytes,
                                   std::uint32_t slot_count) {
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(slot_bytes, std::uint64_t{slot_count}, &bytes) ||
      __builtin_add_overflow(bytes, slots_offset, &bytes) || bytes > (std::uint64_t{1} << 46)) {
    return error(StatusCode::kInvalidArgument, "a lane of " + std::to_string(slot_count) +
                                                   " slots of " + std::to_string(slot_bytes) +
                                                   " bytes is too large");
  }
  return bytes;
}

}  // namespace

Result<LaneLayout> make_lane_layout(std::uint32_t slot_count, std::uint64_t input_slot_bytes,
                                    std::uint64_t output_slot_bytes) {
  if (slot_count == 0 || slot_count > kMaxSlots) {
    return error(StatusCode::kInvalidArgument, "a lane has 1 to " + std::to_string(kMaxSlots) +
                                                   " slots, not " + std::to_string(slot_count));
  }
  if (input_slot_bytes == 0 || output_slot_bytes == 0 || input_slot_bytes > kMaxSlotBytes ||
      output_slot_bytes > kMaxSlotBytes) {
    return error(StatusCode::kInvalidArgument, "a slot has 1 to " + std::to_string(kMaxSlotBytes) +
                                                   " bytes for inputs and for outputs");
  }
  LaneLayout layout;
  layout.slot_count = std::bit_ceil(slot_count);
  layout.input_slot_bytes = *align_up(input_slot_bytes, kPageBytes);
  layout.output_slot_bytes = *align_up(output_slot_bytes, kPageBytes);
  layout.submission_ring_offset = kPageBytes;
  layout.completion_ring_offset = kPageBytes;
  const std::uint64_t ring_bytes =
      *align_up(std::uint64_t{layout.slot_count} * sizeof(SubmissionEntry), kPageBytes);
  static_assert(sizeof(SubmissionEntry) == sizeof(CompletionEntry));
  layout.input_slots_offset = kPageBytes + ring_bytes;
  layout.output_slots_offset = kPageBytes + ring_bytes;
  const Result<std::uint64_t> a =
      region_bytes(layout.input_slots_offset, layout.input_slot_bytes, layout.slot_count);
  if (!a) return error(a.error());
  const Result<std::uint64_t> b =
      region_bytes(layout.output_slots_offset, layout.output_slot_bytes, layout.slot_count);
  if (!b) return error(b.error());
  layout.region_a_bytes = *a;
  layout.region_b_bytes = *b;
  return layout;
}

bool is_consistent(const LaneLayout& layout) {
  const Result<LaneLayout> made =
      make_lane_layout(layout.slot_count, layout.input_slot_bytes, layout.output_slot_bytes);
  return made && *made == layout;
}

}  // namespace bucketd
