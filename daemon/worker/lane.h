// Lane: one model on one channel: slots, the requests in them, plans. RingLane is the one in shared
// memory; StreamLane (stream_lane.h) the one behind a socket.
//
// Thread safety: complete() from any thread; requests() and in_flight are guarded by the
// Scheduler's mutex; a slot's input and output belong to whoever runs its request.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/channel_layout.h"
#include "common/memfd.h"
#include "daemon/worker/channel.h"
#include "daemon/worker/loaded_model.h"
#include "daemon/worker/plan_cache.h"
#include "daemon/worker/request_queue.h"

namespace bucketd {

class Lane : public std::enable_shared_from_this<Lane> {
 public:
  Lane(std::shared_ptr<Channel> channel, std::uint32_t id, std::shared_ptr<LoadedModel> model,
       std::uint32_t slot_count, std::uint32_t max_plans, GoneNotice gone);
  virtual ~Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  std::uint32_t id() const { return id_; }
  Channel& channel() const { return *channel_; }
  LoadedModel& model() const { return *model_; }
  std::uint32_t slot_count() const { return slot_count_; }
  PlanCache& plans() { return plans_; }

  // Where the client wrote: descriptors, then tensors. `is_private_input()`: nobody else can write
  // there any more.
  virtual std::span<const std::byte> input(std::uint32_t slot) const = 0;
  virtual bool is_private_input() const = 0;

  // Where the answer goes; at least kMaxMessageBytes and what the model's largest bucket needs.
  // Empty when there is no memory. It holds anything: whoever completes a request has written all
  // of its `output_bytes`.
  virtual std::span<std::byte> output(std::uint32_t slot) = 0;

  // Publishes the answer of the request in entry.slot, whose output area holds `output_bytes`
  // bytes. From here on the slot is the client's again.
  virtual void complete(const CompletionEntry& entry, std::uint64_t output_bytes) = 0;

  // Says to the client that nothing more will be answered.
  virtual void close() = 0;

  // See GoneNotice.
  const GoneNotice::Flag& gone_flag() const { return gone_.flag(); }

  // Marks a slot as in flight; false if it is already.
  bool begin(std::uint32_t slot) {
    return !slots_in_flight_[slot].exchange(true, std::memory_order_acquire);
  }

  // Guarded by the Scheduler's mutex.
  std::vector<QueuedRequest>& requests() { return requests_; }
  std::uint32_t in_flight = 0;         // queued or being executed
  std::uint32_t queued_deadlines = 0;  // queued requests that have one
  bool is_closing = false;             // takes nothing more

 protected:
  // Marks a slot as free, to be called just before its completion is published: the client may
  // submit it again the moment it sees that.
  void end(std::uint32_t slot) { slots_in_flight_[slot].store(false, std::memory_order_release); }

 private:
  GoneNotice gone_;
  const std::shared_ptr<Channel> channel_;
  const std::uint32_t id_;
  const std::shared_ptr<LoadedModel> model_;
  const std::uint32_t slot_count_;
  PlanCache plans_;
  std::vector<QueuedRequest> requests_;
  std::unique_ptr<std::atomic<bool>[]> slots_in_flight_;
};

// What an output area needs for `model`'s largest bucket; nothing on overflow.
std::optional<std::uint64_t> needed_output_bytes(const ModelDescription& model);

class RingLane : public Lane {
 public:
  // Maps region A (read-only) and region B (writable) of this layout. Errors: INTERNAL when a
  // region is not what it should be, INVALID_ARGUMENT when the layout contradicts itself or its
  // slots are too small for the model.
  static Result<std::shared_ptr<RingLane>> open(std::shared_ptr<RingChannel> channel,
                                                std::uint32_t id,
                                                std::shared_ptr<LoadedModel> model,
                                                const LaneLayout& layout, const UniqueFd& region_a,
                                                const UniqueFd& region_b, std::uint32_t max_plans,
                                                GoneNotice gone);

  RingLane(std::shared_ptr<RingChannel> channel, std::uint32_t id,
           std::shared_ptr<LoadedModel> model, const LaneLayout& layout, MappedRegion region_a,
           MappedRegion region_b, std::uint32_t max_plans, GoneNotice gone);

  // How many submissions wait (loads the tail once), or nothing when the client moved its tail by
  // more than the ring holds. Guarded by the Scheduler's mutex.
  std::optional<std::uint32_t> available() const;
  // Copies the next submission, of which there is one, and moves on. Guarded likewise.
  SubmissionEntry take();

  std::span<const std::byte> input(std::uint32_t slot) const override;
  bool is_private_input() const override { return false; }
  std::span<std::byte> output(std::uint32_t slot) override;
  void complete(const CompletionEntry& entry, std::uint64_t output_bytes) override;
  void close() override;

 private:
  const std::byte* region_a() const {
    return static_cast<const std::byte*>(region_a_.get_address());
  }
  std::byte* region_b() const { return static_cast<std::byte*>(region_b_.get_address()); }
  const LaneClientHeader& client_header() const {
    return *reinterpret_cast<const LaneClientHeader*>(region_a());
  }
  LaneWorkerHeader& worker_header() const {
    return *reinterpret_cast<LaneWorkerHeader*>(region_b());
  }

  void publish_expectation(std::size_t bucket);

  RingChannel& ring_channel_;
  const LaneLayout layout_;
  const MappedRegion region_a_;
  const MappedRegion region_b_;
  std::uint64_t submission_head_ = 0;  // guarded by the Scheduler's mutex
  std::mutex completion_mutex_;
  std::uint64_t completion_tail_ = 0;  // guarded by completion_mutex_
};

}  // namespace bucketd
