#include "daemon/worker/lane.h"

#include <cstring>

#include "daemon/worker/read_once.h"

namespace bucketd {

Lane::Lane(std::shared_ptr<Channel> channel, std::uint32_t id, std::shared_ptr<LoadedModel> model,
           std::uint32_t slot_count, std::uint32_t max_plans, GoneNotice gone)
    : gone_(std::move(gone)),
      channel_(std::move(channel)),
      id_(id),
      model_(std::move(model)),
      slot_count_(slot_count),
      plans_(max_plans),
      requests_(slot_count),
      slots_in_flight_(std::make_unique<std::atomic<bool>[]>(slot_count)) {
  for (QueuedRequest& request : requests_) request.lane = this;
}

std::optional<std::uint64_t> needed_output_bytes(const ModelDescription& model) {
  const std::optional<std::uint64_t> tensors = largest_output_bytes(model);
  std::uint64_t bytes = output_payload_offset(model.outputs.size(), model.inputs.size());
  if (!tensors || __builtin_add_overflow(bytes, *tensors, &bytes)) return std::nullopt;
  return std::max<std::uint64_t>(bytes, kMaxMessageBytes);
}

Result<std::shared_ptr<RingLane>> RingLane::open(std::shared_ptr<RingChannel> channel,
                                                 std::uint32_t id,
                                                 std::shared_ptr<LoadedModel> model,
                                                 const LaneLayout& layout, const UniqueFd& region_a,
                                                 const UniqueFd& region_b, std::uint32_t max_plans,
                                                 GoneNotice gone) {
  const std::string where =
      "lane " + std::to_string(id) + " of model '" + model->description().name + "'";
  if (!is_consistent(layout)) {
    return error(StatusCode::kInvalidArgument, where + ": its layout contradicts itself");
  }
  const std::optional<std::uint64_t> needed = needed_output_bytes(model->description());
  if (!needed || layout.output_slot_bytes < *needed) {
    return error(StatusCode::kInvalidArgument,
                 where + ": output slots of " + std::to_string(layout.output_slot_bytes) +
                     " bytes where the largest bucket needs " +
                     (needed ? std::to_string(*needed) : "more than can be counted"));
  }
  if (layout.input_slot_bytes < input_payload_offset(model->description().inputs.size())) {
    return error(StatusCode::kInvalidArgument,
                 where + ": input slots of " + std::to_string(layout.input_slot_bytes) +
                     " bytes do not hold the descriptors of " +
                     std::to_string(model->description().inputs.size()) + " inputs");
  }
  if (Status status = check_sealed(region_a.get(), layout.region_a_bytes); !status.ok()) {
    return error(status.with_context(where + ", region A"));
  }
  if (Status status = check_sealed(region_b.get(), layout.region_b_bytes); !status.ok()) {
    return error(status.with_context(where + ", region B"));
  }
  Result<MappedRegion> a = map_memfd(region_a.get(), layout.region_a_bytes, MapAccess::kReadOnly);
  if (!a) return error(a.error().with_context(where));
  Result<MappedRegion> b = map_memfd(region_b.get(), layout.region_b_bytes, MapAccess::kReadWrite);
  if (!b) return error(b.error().with_context(where));
  return std::make_shared<RingLane>(std::move(channel), id, std::move(model), layout, std::move(*a),
                                    std::move(*b), max_plans, std::move(gone));
}

RingLane::RingLane(std::shared_ptr<RingChannel> channel, std::uint32_t id,
                   std::shared_ptr<LoadedModel> model, const LaneLayout& layout,
                   MappedRegion region_a, MappedRegion region_b, std::uint32_t max_plans,
                   GoneNotice gone)
    : Lane(channel, id, std::move(model), layout.slot_count, max_plans, std::move(gone)),
      ring_channel_(*channel),  // held by Lane
      layout_(layout),
      region_a_(std::move(region_a)),
      region_b_(std::move(region_b)) {
  for (std::size_t b = 0; b < this->model().bucket_expected_ns.size(); ++b) publish_expectation(b);
}

void RingLane::publish_expectation(std::size_t bucket) {
  worker_header().expected_ns[bucket].store(
      model().bucket_expected_ns[bucket].load(std::memory_order_relaxed),
      std::memory_order_relaxed);
}

std::optional<std::uint32_t> RingLane::available() const {
  // Acquire: pairs with the client's release of the tail, after it filled the entries.
  const std::uint64_t tail = client_header().submission_tail.load(std::memory_order_acquire);
  const std::uint64_t count = tail - submission_head_;
  if (count > layout_.slot_count) return std::nullopt;
  return static_cast<std::uint32_t>(count);
}

SubmissionEntry RingLane::take() {
  SubmissionEntry entry;
  const std::uint64_t index = submission_head_ & (layout_.slot_count - 1);
  read_once(entry, region_a() + layout_.submission_ring_offset + index * sizeof(entry));
  ++submission_head_;
  // Release: the client may overwrite the entry once it sees this.
  worker_header().submission_head.store(submission_head_, std::memory_order_release);
  return entry;
}

std::span<const std::byte> RingLane::input(std::uint32_t slot) const {
  return {region_a() + layout_.input_slot_offset(slot), layout_.input_slot_bytes};
}

std::span<std::byte> RingLane::output(std::uint32_t slot) {
  return {region_b() + layout_.output_slot_offset(slot), layout_.output_slot_bytes};
}

void RingLane::complete(const CompletionEntry& entry, std::uint64_t /*output_bytes*/) {
  {
    const std::lock_guard lock(completion_mutex_);
    const std::uint64_t index = completion_tail_ & (layout_.slot_count - 1);
    if (entry.bucket != kNoBucket) publish_expectation(entry.bucket);
    std::memcpy(region_b() + layout_.completion_ring_offset + index * sizeof(entry), &entry,
                sizeof(entry));
    end(entry.slot);
    ++completion_tail_;
    // Release: pairs with the client's acquire of the tail; it then sees entry and outputs.
    worker_header().completion_tail.store(completion_tail_, std::memory_order_release);
  }
  ring_channel_.wake_client();
}

void RingLane::close() {
  worker_header().closed.store(1, std::memory_order_release);
  ring_channel_.wake_client_always();
}

}  // namespace bucketd
