// How channels and lanes end.
#include <algorithm>
#include <string>

#include "common/futex.h"
#include "daemon/supervisor/channel_broker.h"

namespace bucketd::supervisor {
namespace {

constexpr int kAllWaiters = 1 << 30;
// Region A, region B and the socket.
constexpr std::size_t kNewChannelFds = 3;

}  // namespace

Status ChannelBroker::close_lane(std::uint64_t connection_id, std::uint64_t channel_id,
                                 std::uint32_t lane_id, const SlotLookup& slot_of) {
  Channel* channel = find(channel_id);
  if (channel == nullptr || channel->connection_id != connection_id ||
      channel->state != State::kOpen || !channel->lanes.contains(lane_id) ||
      channel->lanes.at(lane_id).is_closing || channel->lanes.at(lane_id).opened) {
    return Status(StatusCode::kNotFound, "this connection has no lane " + std::to_string(lane_id) +
                                             " of channel " + std::to_string(channel_id));
  }
  channel->lanes.at(lane_id).is_closing = true;
  WorkerProcess* process = slot_of(channel->worker_id).process();
  if (process == nullptr) return Status();
  process->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateCloseLane(builder, channel_id, lane_id);
      },
      {},
      [this, channel_id, lane_id](const link::Message* message) {
        on_progress_();
        Channel* closed = find(channel_id);
        if (message == nullptr || closed == nullptr) return;
        closed->lanes.erase(lane_id);
        if (!closed->is_ring) channels_.erase(channel_id);
      });
  return Status();
}

void ChannelBroker::take_back(std::uint64_t connection_id, LaneOffer offer,
                              const SlotLookup& slot_of) {
  Channel* channel = find(offer.channel_id);
  if (channel == nullptr) return;
  if (offer.is_new_channel) {
    offer.fds.resize(kNewChannelFds);
    channel->new_fds = std::move(offer.fds);
    channel->is_known_to_client = false;
  }
  // NOT_FOUND: the connection is gone, and its channels are being closed.
  [[maybe_unused]] const Status status =
      close_lane(connection_id, offer.channel_id, offer.lane_id, slot_of);
}

void ChannelBroker::connection_ended(std::uint64_t connection_id, const SlotLookup& slot_of) {
  std::vector<Opened> unanswered;
  for (auto& [id, channel] : channels_) {
    if (channel.connection_id != connection_id || channel.state == State::kClosing) continue;
    channel.state = State::kClosing;
    channel.new_fds.clear();
    for (auto& [request, opened] : channel.waiting) unanswered.push_back(std::move(opened));
    channel.waiting.clear();
    for (auto& [lane_id, lane] : channel.lanes) {
      lane.fds.clear();
      if (lane.opened) unanswered.push_back(std::exchange(lane.opened, nullptr));
    }
    WorkerProcess* process = slot_of(channel.worker_id).process();
    if (process == nullptr || process->incarnation() != channel.incarnation) continue;
    process->ask(
        [channel_id = id](flatbuffers::FlatBufferBuilder& builder) {
          return link::CreateCloseChannel(builder, channel_id);
        },
        {},
        [this, channel_id = id](const link::Message* message) {
          // After a death worker_died() has forgotten it already.
          if (message != nullptr) channels_.erase(channel_id);
          on_progress_();
        });
  }
  for (const Opened& opened : unanswered) {
    opened(error(StatusCode::kCancelled, "the connection ended"));
  }
}

void ChannelBroker::mark_closed(Channel& channel) {
  if (!channel.is_ring || channel.worker_page.get_address() == nullptr) return;
  auto& page = *static_cast<WorkerPage*>(channel.worker_page.get_address());
  page.closed.store(1, std::memory_order_release);
  page.signal.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(page.signal, kAllWaiters);
}

void ChannelBroker::forget_channel(std::uint64_t channel_id, const Status& reason) {
  const auto found = channels_.find(channel_id);
  if (found == channels_.end()) return;
  mark_closed(found->second);
  std::vector<Opened> unanswered;
  for (auto& [request, opened] : found->second.waiting) unanswered.push_back(std::move(opened));
  for (auto& [lane_id, lane] : found->second.lanes) {
    if (lane.opened) unanswered.push_back(std::move(lane.opened));
  }
  channels_.erase(found);
  for (const Opened& opened : unanswered) opened(error(reason));
}

std::vector<ChannelEnd> ChannelBroker::worker_died(const WorkerSlot& slot, WorkerDeath& death) {
  std::erase_if(death.executing, [&](const ExecutingAtDeath& request) {
    if (request.kind != ExecutionKind::kRequest) return false;
    const Channel* channel = find(request.channel_id);
    if (channel == nullptr || channel->worker_id != slot.id()) return true;
    const auto lane = channel->lanes.find(request.lane_id);
    return lane == channel->lanes.end() || lane->second.model_id != request.model_id;
  });
  std::vector<ChannelEnd> ends;
  std::vector<std::uint64_t> ids;
  for (auto& [id, channel] : channels_) {
    if (channel.worker_id == slot.id()) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) {
    Channel* channel = find(id);
    if (channel == nullptr) continue;
    // At once, before anything that takes longer: clients sleep on it.
    mark_closed(*channel);
    ChannelEnd end{channel->connection_id, channel->uid, id, channel->is_known_to_client, {}};
    for (const ExecutingAtDeath& request : death.executing) {
      if (request.kind == ExecutionKind::kRequest && request.channel_id == id) {
        end.executing.push_back(request);
      }
    }
    ends.push_back(std::move(end));
    forget_channel(id, Status(StatusCode::kUnavailable, "the worker died"));
  }
  return ends;
}

std::vector<LaneEnd> ChannelBroker::model_unloaded(std::uint32_t model_id) {
  std::vector<LaneEnd> ends;
  std::vector<Opened> unanswered;
  for (auto channel = channels_.begin(); channel != channels_.end();) {
    const std::size_t before = channel->second.lanes.size();
    for (auto& [lane_id, lane] : channel->second.lanes) {
      if (lane.model_id != model_id) continue;
      if (lane.opened) {
        unanswered.push_back(std::exchange(lane.opened, nullptr));
      } else {
        ends.push_back({channel->second.connection_id, channel->first, lane_id, model_id});
      }
    }
    std::erase_if(channel->second.lanes,
                  [&](const auto& item) { return item.second.model_id == model_id; });
    const bool is_over = !channel->second.is_ring && channel->second.lanes.size() < before;
    channel = is_over ? channels_.erase(channel) : std::next(channel);
  }
  for (const Opened& opened : unanswered) {
    opened(error(StatusCode::kUnavailable, "the model was unloaded or replaced"));
  }
  return ends;
}

std::vector<LaneEnd> ChannelBroker::ended_by_worker(const WorkerSlot& slot,
                                                    std::uint64_t channel_id,
                                                    std::optional<std::uint32_t> lane_id) {
  std::vector<LaneEnd> ends;
  Channel* channel = find(channel_id);
  if (channel == nullptr || channel->worker_id != slot.id()) return ends;
  for (const auto& [id, lane] : channel->lanes) {
    // A client hears of lanes that it has; of one that is being opened, from `opened`.
    if ((lane_id && id != *lane_id) || lane.opened) continue;
    ends.push_back({channel->connection_id, channel_id, id, lane.model_id});
  }
  const Status reason(StatusCode::kUnavailable, "the worker closed the channel");
  if (!lane_id || !channel->is_ring) {
    forget_channel(channel_id, reason);
  } else if (const auto lane = channel->lanes.find(*lane_id); lane != channel->lanes.end()) {
    const Opened opened = std::exchange(lane->second.opened, nullptr);
    channel->lanes.erase(lane);
    if (opened) opened(error(reason));
  }
  return ends;
}

std::vector<ChannelEnd> ChannelBroker::close_all(const std::set<std::uint32_t>& but_workers) {
  std::vector<ChannelEnd> ends;
  for (auto& [id, channel] : channels_) {
    if (but_workers.contains(channel.worker_id)) continue;
    mark_closed(channel);
    ends.push_back({channel.connection_id, channel.uid, id, channel.is_known_to_client, {}});
  }
  return ends;
}

}  // namespace bucketd::supervisor
