#include "libclient/lane.h"

#include <utility>

#include "libclient/channel.h"
#include "libclient/control_connection.h"

namespace bucketd::internal {

namespace {

std::uint64_t next_serial() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

Lane::Lane(LaneTerms terms, std::shared_ptr<Channel> channel,
           std::shared_ptr<ControlConnection> connection)
    : slots(terms.layout.slot_count),
      serial_(next_serial()),
      terms_(std::move(terms)),
      channel_(std::move(channel)),
      connection_(std::move(connection)) {
  for (std::uint32_t slot = layout().slot_count; slot-- > 0;) {
    slots[slot].lane = this;
    slots[slot].slot = slot;
    free_slots.push_back(slot);
  }
}

Lane::~Lane() = default;

void Lane::leave_channel() {
  channel_->remove_lane(*this);
  connection_->lane_is_over(terms_.channel_id, terms_.lane_id, closed_by_daemon);
}

bool Lane::is_closed() const { return closed || peer_closed() || channel_->peer_closed(); }

Status Lane::gone() const {
  return Status(StatusCode::kUnavailable,
                "model '" + model().name + "': the worker or the daemon went away");
}

void Lane::look_now_and_then() {
  if (channel_->is_polled_by_system_calls()) {
    connection_->pump();
  } else {
    connection_->pump_now_and_then();
  }
}

void Lane::look_before_submission() {
  if (channel_->is_polled_by_system_calls() || channel_->peer_sleeps()) connection_->pump();
}

}  // namespace bucketd::internal
