#include "daemon/worker/stream_lane.h"

#include <algorithm>
#include <utility>

namespace bucketd {

StreamLane::StreamLane(std::shared_ptr<Channel> channel, std::uint32_t id,
                       std::shared_ptr<LoadedModel> model, std::uint32_t slot_count,
                       std::uint64_t max_body_bytes, std::uint32_t max_plans,
                       std::shared_ptr<StreamMailbox> mailbox, GoneNotice gone)
    : Lane(std::move(channel), id, model, slot_count, max_plans, std::move(gone)),
      max_body_bytes_(max_body_bytes),
      // A lane whose outputs cannot be counted is refused before.
      output_capacity_(needed_output_bytes(model->description()).value_or(kMaxMessageBytes)),
      mailbox_(std::move(mailbox)),
      slots_(slot_count),
      answered_(slot_count) {
  for (std::uint32_t slot = slot_count; slot-- > 0;) free_slots_.push_back(slot);
}

std::span<const std::byte> StreamLane::input(std::uint32_t slot) const {
  return {slots_[slot].input.data(), slots_[slot].input_bytes};
}

std::span<std::byte> StreamLane::output(std::uint32_t slot) {
  std::byte* memory = slots_[slot].output.reserve(output_capacity_);
  if (memory == nullptr) return {};
  return {memory, output_capacity_};
}

void StreamLane::note() {
  {
    const std::lock_guard lock(mailbox_->mutex);
    mailbox_->noted.push_back(channel().id());
  }
  mailbox_->event.notify();
}

void StreamLane::complete(const CompletionEntry& entry, std::uint64_t output_bytes) {
  bool is_first = false;
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = slots_[entry.slot];
    slot.entry = entry;
    slot.entry.slot = slot.clients_slot;
    slot.output_bytes = output_bytes;
    is_first = answered_head_ == answered_tail_;
    answered_[answered_tail_++ % answered_.size()] = entry.slot;
  }
  // The stream thread takes all that is there, each time.
  if (is_first) note();
}

void StreamLane::close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }
  note();
}

std::optional<StreamLane::Filling> StreamLane::fill(std::uint64_t body_bytes,
                                                    std::uint32_t clients_slot) {
  if (free_slots_.empty()) return std::nullopt;
  const std::uint32_t number = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[number];
  slot.clients_slot = clients_slot;
  std::byte* memory = slot.input.reserve(std::max(body_bytes, kTensorAlignment));
  slot.input_bytes = memory != nullptr ? body_bytes : 0;
  return Filling{number, memory};
}

std::optional<StreamLane::Sending> StreamLane::next_answer() {
  const std::lock_guard lock(mutex_);
  if (answered_head_ == answered_tail_) return std::nullopt;
  const std::uint32_t number = answered_[answered_head_++ % answered_.size()];
  const Slot& slot = slots_[number];
  return Sending{slot.entry, number, {slot.output.data(), slot.output_bytes}};
}

void StreamLane::free(std::uint32_t slot) {
  end(slot);
  free_slots_.push_back(slot);
}

bool StreamLane::is_closed() const {
  const std::lock_guard lock(mutex_);
  return is_closed_;
}

bool StreamLane::is_finished() const {
  const std::lock_guard lock(mutex_);
  return is_closed_ && answered_head_ == answered_tail_;
}

}  // namespace bucketd
