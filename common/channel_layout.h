// The shared-memory ABI between a client and a worker. The page on it is README.md in this folder;
// names there are names here.
//
// Everything in these structures has a fixed size and offset. What the other side wrote is never
// trusted: see README.md, "Reading what a client wrote".
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "bucketd/model_description.h"
#include "bucketd/shape.h"
#include "bucketd/status.h"

namespace bucketd {

// Control protocol and channel ABI. A different major number is refused with a readable text; a
// higher minor one only adds what feature bits announce.
inline constexpr std::uint16_t kProtocolMajor = 1;
inline constexpr std::uint16_t kProtocolMinor = 0;

// Feature bits, offered in Hello and granted in Welcome.
inline constexpr std::uint64_t kFeatureRing = 1u << 0;    // shared-memory channel
inline constexpr std::uint64_t kFeatureStream = 1u << 1;  // stream transport

inline constexpr std::size_t kIndexAlignment = 128;  // two cache lines: adjacent-line prefetch
inline constexpr std::uint64_t kTensorAlignment = 64;
inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint32_t kMaxSlots = 1024;
inline constexpr std::uint64_t kMaxSlotBytes = std::uint64_t{1} << 36;

// Rounds up to a multiple of `alignment`, a power of two; nothing on overflow.
constexpr std::optional<std::uint64_t> align_up(std::uint64_t value, std::uint64_t alignment) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(value, alignment - 1, &sum)) return std::nullopt;
  return sum & ~(alignment - 1);
}

// How a side that is about to sleep wants to be woken; the value of ClientPage::waiting and
// WorkerPage::need_wakeup.
enum class Wakeup : std::uint32_t {
  kNone = 0,    // awake: no system call needed
  kFutex = 1,   // FUTEX_WAKE on the peer's word
  kSocket = 2,  // one byte on the channel's socketpair, MSG_DONTWAIT
};

// First page of a channel, region A: the client writes, the worker maps it read-only.
struct ClientPage {
  // Futex word of the worker. The client adds one, then wakes.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> doorbell;
  // A Wakeup: how the client sleeps.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> waiting;
  // A hint: the CPU that the client submitted from last, plus one. The worker does not stay awake
  // on the CPU that its client needs.
  std::atomic<std::uint32_t> cpu;
};

// First page of a channel, region B: the worker writes, the client maps it read-only; the
// supervisor holds a writable map of it to set `closed` when the worker is dead.
struct WorkerPage {
  std::uint32_t magic;  // kWorkerPageMagic
  std::uint16_t protocol_major;
  std::uint16_t protocol_minor;
  std::uint64_t worker_incarnation;
  // A Wakeup: how the worker sleeps.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> need_wakeup;
  // A hint: the CPU that the channel's last request was executed on, plus one.
  std::atomic<std::uint32_t> cpu;
  // Futex word of the client. The worker adds one for each batch of completions.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> signal;
  // Non-zero: no completion will come any more; the control connection says why.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> closed;
};
inline constexpr std::uint32_t kWorkerPageMagic = 0x31444B42;  // "BKD1"

// Start of a lane's region A (the client writes; the worker maps it read-only).
struct LaneClientHeader {
  alignas(kIndexAlignment) std::atomic<std::uint64_t> submission_tail;
  alignas(kIndexAlignment) std::atomic<std::uint64_t> completion_head;
};

// Start of a lane's region B (the worker writes; the client maps it read-only).
struct LaneWorkerHeader {
  alignas(kIndexAlignment) std::atomic<std::uint64_t> completion_tail;
  alignas(kIndexAlignment) std::atomic<std::uint64_t> submission_head;
  // Non-zero: the lane's model is gone (unloaded or replaced) or its worker is dead.
  alignas(kIndexAlignment) std::atomic<std::uint32_t> closed;
  // A hint: how long a request that runs in that bucket is expected to execute, in nanoseconds; 0:
  // none has run yet.
  alignas(kIndexAlignment) std::atomic<std::uint64_t> expected_ns[kMaxBuckets];
};

enum class SubmissionKind : std::uint8_t {
  kRaw = 0,     // tensors as the caller has them
  kPadded = 1,  // laid out by plan `plan_id`; descriptors still give the caller's own shapes
};

// One entry of the submission ring.
struct SubmissionEntry {
  std::uint64_t user_data;       // echoed in the completion
  std::uint64_t session_handle;  // from SessionOpened; 0: none
  std::uint64_t deadline_ns;     // CLOCK_MONOTONIC; 0: none
  std::uint32_t slot;
  std::uint32_t plan_id;       // kPadded only, else 0
  std::uint16_t tensor_count;  // descriptors at the start of the input slot
  std::uint8_t kind;           // SubmissionKind
  std::uint8_t priority;       // among this connection's requests: higher runs sooner
  std::uint32_t reserved0;
  std::uint64_t reserved1[3];
};
static_assert(sizeof(SubmissionEntry) == 64);

// Completion flags.
inline constexpr std::uint16_t kCompletionHasPlan = 1u << 0;  // a PlanRecord follows the outputs

// One entry of the completion ring.
struct CompletionEntry {
  std::uint64_t user_data;
  std::uint32_t slot;
  std::uint32_t status;  // StatusCode
  std::uint32_t bucket;  // the bucket that ran; kNoBucket if none
  std::uint32_t plan_id;
  std::uint16_t output_count;   // OutputDescriptors at the start of the output slot, on success
  std::uint16_t flags;          // kCompletion...
  std::uint32_t message_bytes;  // UTF-8 text at the start of the output slot, on failure
  std::uint64_t queue_ns;       // from being taken out of the ring to execution
  std::uint64_t execute_ns;     // kernel, bucket and copies
  std::uint64_t finished_ns;    // CLOCK_MONOTONIC, when it was executed; 0: it was not
  std::uint64_t reserved;
};
static_assert(sizeof(CompletionEntry) == 64);
inline constexpr std::uint32_t kNoBucket = 0xFFFFFFFF;

// Longest error text in a completion; longer ones are cut.
inline constexpr std::uint32_t kMaxMessageBytes = 2048;

// One input, at the start of the input slot. Data is contiguous, at the strides of `dims` (raw) or
// of the plan's padded shape (padded).
struct InputDescriptor {
  std::uint8_t dtype;
  std::uint8_t rank;
  std::uint16_t reserved0;
  std::uint32_t reserved1;
  std::uint64_t offset;         // from the start of the slot, multiple of kTensorAlignment
  std::uint64_t byte_size;      // of the data in the slot
  std::int64_t dims[kMaxRank];  // the caller's own sizes
};
static_assert(sizeof(InputDescriptor) == 88);

// One output, at the start of the output slot. Data is the whole (padded) tensor, contiguous.
struct OutputDescriptor {
  std::uint8_t dtype;
  std::uint8_t rank;
  std::uint16_t reserved0;
  std::uint32_t reserved1;
  std::uint64_t offset;
  std::uint64_t byte_size;
  std::int64_t dims[kMaxRank];        // the bucket's sizes
  std::int64_t crop_start[kMaxRank];  // the part that answers the caller's own sizes
  std::int64_t crop_dims[kMaxRank];
};
static_assert(sizeof(OutputDescriptor) == 216);

// How one bucket input is laid out by a plan.
struct PlanInputRecord {
  std::uint8_t dtype;
  std::uint8_t rank;
  std::uint16_t source;  // the caller's input that fills it
  std::uint32_t reserved;
  std::uint64_t fill_bits;  // one element of padding, in the low bytes
  std::int64_t padded_dims[kMaxRank];
  std::int64_t pad_before[kMaxRank];  // where the caller's data begins
};
static_assert(sizeof(PlanInputRecord) == 144);

// The plan of the request's signature; follows the output descriptors when kCompletionHasPlan.
// `input_count` PlanInputRecords follow it. Ids are never 0 and mean the same for the lane's life.
struct PlanRecord {
  std::uint32_t plan_id;
  std::uint32_t bucket;
  std::uint32_t input_count;
  std::uint32_t reserved;
};
static_assert(sizeof(PlanRecord) == 16);

// Where a lane's parts are. Computed once by the supervisor, told to both sides.
struct LaneLayout {
  std::uint32_t slot_count = 0;              // power of two; also the capacity of both rings
  std::uint64_t input_slot_bytes = 0;        // multiple of kPageBytes
  std::uint64_t output_slot_bytes = 0;       // multiple of kPageBytes
  std::uint64_t submission_ring_offset = 0;  // in region A
  std::uint64_t input_slots_offset = 0;      // in region A
  std::uint64_t region_a_bytes = 0;
  std::uint64_t completion_ring_offset = 0;  // in region B
  std::uint64_t output_slots_offset = 0;     // in region B
  std::uint64_t region_b_bytes = 0;

  std::uint64_t input_slot_offset(std::uint32_t slot) const {
    return input_slots_offset + slot * input_slot_bytes;
  }
  std::uint64_t output_slot_offset(std::uint32_t slot) const {
    return output_slots_offset + slot * output_slot_bytes;
  }
  friend bool operator==(const LaneLayout&, const LaneLayout&) = default;
};

// The layout for `slot_count` slots (rounded up to a power of two, 1 to kMaxSlots) of at least
// these capacities, descriptors included (rounded up to pages). INVALID_ARGUMENT on overflow or
// zero.
Result<LaneLayout> make_lane_layout(std::uint32_t slot_count, std::uint64_t input_slot_bytes,
                                    std::uint64_t output_slot_bytes);

// Whether `layout` is what make_lane_layout gives for its own counts: what arrives by message is
// checked by its receiver before it maps anything.
bool is_consistent(const LaneLayout& layout);

// Bytes before the first tensor in an input slot of `tensor_count` inputs, and in an output slot of
// `output_count` outputs whose plan has `input_count` inputs.
constexpr std::uint64_t input_payload_offset(std::size_t tensor_count) {
  return *align_up(tensor_count * sizeof(InputDescriptor), kTensorAlignment);
}
constexpr std::uint64_t output_payload_offset(std::size_t output_count, std::size_t input_count) {
  return *align_up(output_count * sizeof(OutputDescriptor) + sizeof(PlanRecord) +
                       input_count * sizeof(PlanInputRecord),
                   kTensorAlignment);
}

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(std::is_standard_layout_v<ClientPage> && std::is_standard_layout_v<WorkerPage>);
static_assert(sizeof(ClientPage) <= kPageBytes && sizeof(WorkerPage) <= kPageBytes);
static_assert(sizeof(LaneClientHeader) <= kPageBytes && sizeof(LaneWorkerHeader) <= kPageBytes);

// Stream transport: every frame is a StreamFrameHeader, then `body_bytes` bytes.
//   client -> worker, kSubmit: SubmissionEntry (slot is ignored), InputDescriptors, tensors at
//   their
//     offsets, all counted from the start of the descriptors, as in an input slot.
//   worker -> client, kComplete: CompletionEntry, then what an output slot would hold.
struct StreamFrameHeader {
  std::uint32_t magic;  // kStreamFrameMagic
  std::uint32_t kind;   // StreamFrameKind
  std::uint64_t body_bytes;
};
static_assert(sizeof(StreamFrameHeader) == 16);
inline constexpr std::uint32_t kStreamFrameMagic = 0x53444B42;  // "BKDS"
enum class StreamFrameKind : std::uint32_t { kSubmit = 1, kComplete = 2 };

}  // namespace bucketd
