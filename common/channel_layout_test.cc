#include "common/channel_layout.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace bucketd {
namespace {

TEST(LaneLayoutTest, parts_neither_overlap_nor_leave_the_regions) {
  for (const std::uint32_t slots : {1u, 2u, 3u, 64u, 65u, kMaxSlots}) {
    for (const std::uint64_t bytes : {std::uint64_t{1}, kPageBytes, kPageBytes + 1}) {
      const Result<LaneLayout> layout = make_lane_layout(slots, bytes, 3 * bytes);
      ASSERT_TRUE(layout) << layout.error().to_string();
      EXPECT_GE(layout->slot_count, slots);
      EXPECT_EQ(layout->slot_count & (layout->slot_count - 1), 0u);
      EXPECT_GE(layout->submission_ring_offset, sizeof(LaneClientHeader));
      EXPECT_GE(layout->completion_ring_offset, sizeof(LaneWorkerHeader));
      EXPECT_GE(layout->input_slots_offset,
                layout->submission_ring_offset + layout->slot_count * sizeof(SubmissionEntry));
      EXPECT_GE(layout->output_slots_offset,
                layout->completion_ring_offset + layout->slot_count * sizeof(CompletionEntry));
      EXPECT_EQ(layout->input_slot_offset(layout->slot_count), layout->region_a_bytes);
      EXPECT_EQ(layout->output_slot_offset(layout->slot_count), layout->region_b_bytes);
      EXPECT_GE(layout->input_slot_bytes, bytes);
      EXPECT_GE(layout->output_slot_bytes, 3 * bytes);
      EXPECT_TRUE(is_consistent(*layout));
    }
  }
}

TEST(LaneLayoutTest, impossible_sizes_are_refused) {
  EXPECT_FALSE(make_lane_layout(0, 1, 1));
  EXPECT_FALSE(make_lane_layout(kMaxSlots + 1, 1, 1));
  EXPECT_FALSE(make_lane_layout(1, 0, 1));
  EXPECT_FALSE(make_lane_layout(1, 1, 0));
  EXPECT_FALSE(make_lane_layout(1, kMaxSlotBytes + 1, 1));
  EXPECT_FALSE(make_lane_layout(1, 1, UINT64_MAX));
  EXPECT_FALSE(make_lane_layout(kMaxSlots, kMaxSlotBytes, 1)) << "2^46 bytes are the most";
}

TEST(LaneLayoutTest, a_layout_with_any_field_changed_is_inconsistent) {
  const LaneLayout good = *make_lane_layout(4, 5000, 9000);
  const auto expect_bad = [&](auto member) {
    LaneLayout bad = good;
    bad.*member += 1;
    EXPECT_FALSE(is_consistent(bad));
  };
  expect_bad(&LaneLayout::slot_count);
  expect_bad(&LaneLayout::input_slot_bytes);
  expect_bad(&LaneLayout::output_slot_bytes);
  expect_bad(&LaneLayout::submission_ring_offset);
  expect_bad(&LaneLayout::input_slots_offset);
  expect_bad(&LaneLayout::region_a_bytes);
  expect_bad(&LaneLayout::completion_ring_offset);
  expect_bad(&LaneLayout::output_slots_offset);
  expect_bad(&LaneLayout::region_b_bytes);
  EXPECT_FALSE(is_consistent(LaneLayout()));
}

// The ABI: a change of any of these numbers is a new major version.
TEST(ChannelAbiTest, offsets_of_fields_are_what_version_1_says) {
  EXPECT_EQ(kProtocolMajor, 1);
  EXPECT_EQ(offsetof(ClientPage, doorbell), 0u);
  EXPECT_EQ(offsetof(ClientPage, waiting), 128u);
  EXPECT_EQ(offsetof(WorkerPage, magic), 0u);
  EXPECT_EQ(offsetof(WorkerPage, worker_incarnation), 8u);
  EXPECT_EQ(offsetof(WorkerPage, need_wakeup), 128u);
  EXPECT_EQ(offsetof(WorkerPage, signal), 256u);
  EXPECT_EQ(offsetof(WorkerPage, closed), 384u);
  EXPECT_EQ(offsetof(LaneClientHeader, submission_tail), 0u);
  EXPECT_EQ(offsetof(LaneClientHeader, completion_head), 128u);
  EXPECT_EQ(offsetof(LaneWorkerHeader, completion_tail), 0u);
  EXPECT_EQ(offsetof(LaneWorkerHeader, submission_head), 128u);
  EXPECT_EQ(offsetof(LaneWorkerHeader, closed), 256u);
  EXPECT_EQ(offsetof(SubmissionEntry, session_handle), 8u);
  EXPECT_EQ(offsetof(SubmissionEntry, deadline_ns), 16u);
  EXPECT_EQ(offsetof(SubmissionEntry, slot), 24u);
  EXPECT_EQ(offsetof(SubmissionEntry, plan_id), 28u);
  EXPECT_EQ(offsetof(SubmissionEntry, tensor_count), 32u);
  EXPECT_EQ(offsetof(SubmissionEntry, kind), 34u);
  EXPECT_EQ(offsetof(SubmissionEntry, priority), 35u);
  EXPECT_EQ(offsetof(CompletionEntry, slot), 8u);
  EXPECT_EQ(offsetof(CompletionEntry, status), 12u);
  EXPECT_EQ(offsetof(CompletionEntry, bucket), 16u);
  EXPECT_EQ(offsetof(CompletionEntry, plan_id), 20u);
  EXPECT_EQ(offsetof(CompletionEntry, output_count), 24u);
  EXPECT_EQ(offsetof(CompletionEntry, flags), 26u);
  EXPECT_EQ(offsetof(CompletionEntry, message_bytes), 28u);
  EXPECT_EQ(offsetof(CompletionEntry, queue_ns), 32u);
  EXPECT_EQ(offsetof(CompletionEntry, execute_ns), 40u);
}

TEST(ChannelAbiTest, payload_starts_aligned_behind_the_descriptors) {
  EXPECT_EQ(input_payload_offset(0), 0u);
  EXPECT_EQ(input_payload_offset(1), 128u);
  EXPECT_EQ(output_payload_offset(1, 1), 384u);
  EXPECT_EQ(align_up(UINT64_MAX, 64), std::nullopt);
}

}  // namespace
}  // namespace bucketd
