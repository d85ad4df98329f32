#include "daemon/supervisor/channel_broker.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "common/message_socket.h"
#include "common/system_error.h"
#include "common/wire/model_wire.h"

namespace bucketd::supervisor {
namespace {

// Questions that a worker may leave unanswered before new lanes have to wait.
constexpr std::size_t kMaxUnanswered = 1024;
// How many of them may be one user's.
constexpr std::size_t kMaxUnderWay = 64;

// The worker's refusal, or why there is no answer.
Status reason_of(const link::Message* message) {
  if (message == nullptr) return Status(StatusCode::kUnavailable, "the worker died");
  if (const link::Refused* refused = message->body_as_Refused()) {
    Status status = wire::from_wire(refused->status());
    if (status.code() != StatusCode::kNotFound) return status;
    // The model was unloaded while the question was on its way.
    return Status(StatusCode::kUnavailable, status.message());
  }
  return Status(StatusCode::kInternal, "the worker gave an unexpected answer");
}

Result<UniqueFd> duplicate(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return error(status_from_errno("pass shared memory", errno));
  return copy;
}

Result<std::vector<UniqueFd>> duplicates(const std::vector<UniqueFd>& fds) {
  std::vector<UniqueFd> copies;
  for (const UniqueFd& fd : fds) {
    Result<UniqueFd> copy = duplicate(fd);
    if (!copy) return error(copy.error());
    copies.push_back(std::move(*copy));
  }
  return copies;
}

}  // namespace

ChannelBroker::ChannelBroker(const LimitsConfiguration& limits, UserAccounts& accounts,
                             std::function<void()> on_progress)
    : limits_(limits), accounts_(accounts), on_progress_(std::move(on_progress)) {}

ChannelBroker::Channel* ChannelBroker::find(std::uint64_t channel_id) {
  const auto found = channels_.find(channel_id);
  return found == channels_.end() ? nullptr : &found->second;
}

std::size_t ChannelBroker::lanes_of_connection(std::uint64_t connection_id) const {
  std::size_t count = 0;
  for (const auto& [id, channel] : channels_) {
    if (channel.connection_id == connection_id) {
      count += channel.lanes.size() + channel.waiting.size();
    }
  }
  return count;
}

std::size_t ChannelBroker::under_way(uid_t uid) const {
  std::size_t count = 0;
  for (const auto& [id, channel] : channels_) {
    if (channel.uid != uid) continue;
    count += channel.state == State::kOpen ? 0 : 1 + channel.waiting.size();
    for (const auto& [lane_id, lane] : channel.lanes) {
      count += lane.opened != nullptr || lane.is_closing ? 1 : 0;
    }
  }
  return count;
}

void ChannelBroker::open_lane(WorkerSlot& slot, const LaneRequest& request, Opened opened) {
  if (lanes_of_connection(request.connection_id) >= limits_.max_lanes_per_connection) {
    return opened(error(StatusCode::kResourceExhausted,
                        "this connection has " + std::to_string(limits_.max_lanes_per_connection) +
                            " lanes, the limit 'limits.max_lanes_per_connection'; model '" +
                            request.generation->name + "' would be one more"));
  }
  if (!slot.is_ready()) {
    return opened(error(StatusCode::kUnavailable,
                        "the worker of model '" + request.generation->name + "' is away"));
  }
  if (slot.process()->unanswered() >= kMaxUnanswered || under_way(request.uid) >= kMaxUnderWay) {
    return opened(error(StatusCode::kWouldBlock,
                        "the worker of model '" + request.generation->name + "' is busy"));
  }
  if (request.transport == link::Transport::kRing) {
    for (auto& [id, channel] : channels_) {
      if (channel.connection_id != request.connection_id || !channel.is_ring ||
          channel.worker_id != slot.id() || channel.incarnation != slot.incarnation()) {
        continue;
      }
      if (channel.state == State::kOpening) {
        channel.waiting.emplace_back(request, std::move(opened));
        return;
      }
      if (channel.state == State::kOpen) {
        return add_lane(slot, channel, request, std::move(opened));
      }
    }
  }
  Result<Channel*> channel = make_channel(slot, request);
  if (!channel) return opened(error(channel.error()));
  if (!(*channel)->is_ring) return add_lane(slot, **channel, request, std::move(opened));
  (*channel)->waiting.emplace_back(request, std::move(opened));
}

Result<ChannelBroker::Channel*> ChannelBroker::make_channel(WorkerSlot& slot,
                                                            const LaneRequest& request) {
  Channel channel;
  channel.id = next_channel_id_++;
  channel.connection_id = request.connection_id;
  channel.uid = request.uid;
  channel.worker_id = slot.id();
  channel.incarnation = slot.incarnation();
  channel.is_ring = request.transport == link::Transport::kRing;
  if (channel.is_ring) {
    Result<Charge> bytes = accounts_.charge(request.uid, Resource::kSharedBytes, 2 * kPageBytes);
    if (!bytes) return error(bytes.error());
    channel.bytes = std::move(*bytes);
    if (const Status status = send_open_channel(slot, channel); !status.ok()) {
      return error(status);
    }
  } else {
    channel.state = State::kOpen;
  }
  const std::uint64_t id = channel.id;
  return &channels_.emplace(id, std::move(channel)).first->second;
}

Status ChannelBroker::send_open_channel(WorkerSlot& slot, Channel& channel) {
  Result<UniqueFd> region_a = create_memfd("bucketd-channel-a", kPageBytes);
  if (!region_a) return region_a.error();
  Result<UniqueFd> region_b = create_memfd("bucketd-channel-b", kPageBytes);
  if (!region_b) return region_b.error();
  Result<MappedRegion> page = map_memfd(region_b->get(), kPageBytes, MapAccess::kReadWrite);
  if (!page) return page.error();
  Result<SocketPair> wakeups = make_socket_pair(SOCK_STREAM);
  if (!wakeups) return wakeups.error();
  channel.new_fds.push_back(std::move(*region_a));
  channel.new_fds.push_back(std::move(*region_b));
  Result<std::vector<UniqueFd>> fds = duplicates(channel.new_fds);
  if (!fds) return fds.error();
  fds->push_back(std::move(wakeups->second));
  channel.new_fds.push_back(std::move(wakeups->first));
  channel.worker_page = std::move(*page);
  const std::uint64_t id = channel.id;
  const std::uint64_t connection_id = channel.connection_id;
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateOpenChannel(builder, id, connection_id);
      },
      std::move(*fds),
      [this, id, &slot](const link::Message* message) { channel_answered(id, message, slot); },
      Due::kPromptly);
  return Status();
}

void ChannelBroker::channel_answered(std::uint64_t channel_id, const link::Message* message,
                                     WorkerSlot& slot) {
  on_progress_();
  Channel* channel = find(channel_id);
  if (channel == nullptr || channel->state != State::kOpening) return;
  if (message == nullptr || message->body_as_ChannelReady() == nullptr) {
    return forget_channel(channel_id, reason_of(message));
  }
  if (const Status sealed = seal_future_writes(channel->new_fds[1].get()); !sealed.ok()) {
    return forget_channel(channel_id, sealed);
  }
  channel->state = State::kOpen;
  std::vector<std::pair<LaneRequest, Opened>> waiting;
  waiting.swap(channel->waiting);
  for (auto& [request, opened] : waiting) {
    // Callbacks may end the connection, and with it the channel.
    channel = find(channel_id);
    if (channel == nullptr || channel->state != State::kOpen) {
      opened(error(StatusCode::kCancelled, "the connection ended"));
    } else {
      add_lane(slot, *channel, request, std::move(opened));
    }
  }
}

Result<std::vector<UniqueFd>> ChannelBroker::make_lane_memory(const Channel& channel, Lane& lane) {
  std::vector<UniqueFd> for_worker;
  if (!channel.is_ring) {
    Result<SocketPair> stream = make_socket_pair(SOCK_STREAM);
    if (!stream) return error(stream.error());
    lane.fds.push_back(std::move(stream->first));
    for_worker.push_back(std::move(stream->second));
    return for_worker;
  }
  Result<UniqueFd> region_a = create_memfd("bucketd-lane-a", lane.plan.layout.region_a_bytes);
  if (!region_a) return error(region_a.error());
  Result<UniqueFd> region_b = create_memfd("bucketd-lane-b", lane.plan.layout.region_b_bytes);
  if (!region_b) return error(region_b.error());
  lane.fds.push_back(std::move(*region_a));
  lane.fds.push_back(std::move(*region_b));
  return duplicates(lane.fds);
}

void ChannelBroker::add_lane(WorkerSlot& slot, Channel& channel, const LaneRequest& request,
                             Opened opened) {
  const std::uint64_t channel_id = channel.id;
  const auto give_up = [&](const Status& reason) {
    if (!channel.is_ring) channels_.erase(channel_id);
    opened(error(reason));
  };
  if (!request.generation->is_on_worker || !request.generation->description) {
    return give_up(
        Status(StatusCode::kUnavailable, "model '" + request.generation->name + "' went away"));
  }
  const Result<SlotPlan> plan = plan_slots(*request.generation->description,
                                           request.generation->spec.slots, request.slots, limits_);
  if (!plan) return give_up(plan.error());
  // A stream's buffers are the worker's: a frame each way for every slot at most.
  Result<Charge> bytes =
      accounts_.charge(request.uid, Resource::kSharedBytes,
                       plan->layout.region_a_bytes + plan->layout.region_b_bytes);
  if (!bytes) {
    return give_up(bytes.error().with_context("cannot open a lane to model '" +
                                              request.generation->name + "'"));
  }
  Lane lane;
  lane.model_id = request.generation->model_id;
  lane.bytes = std::move(*bytes);
  lane.plan = *plan;
  Result<std::vector<UniqueFd>> for_worker = make_lane_memory(channel, lane);
  if (!for_worker) return give_up(for_worker.error());
  lane.opened = std::move(opened);
  const std::uint32_t lane_id = channel.next_lane_id++;
  channel.lanes.emplace(lane_id, std::move(lane));
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const wire::LaneLayout layout = wire::to_wire(plan->layout);
        return link::CreateOpenLane(builder, channel_id, lane_id, request.generation->model_id,
                                    request.transport, &layout, plan->max_request_bytes,
                                    request.connection_id);
      },
      std::move(*for_worker),
      [this, channel_id, lane_id](const link::Message* message) {
        lane_answered(channel_id, lane_id, message);
      },
      Due::kPromptly);
}

void ChannelBroker::lane_answered(std::uint64_t channel_id, std::uint32_t lane_id,
                                  const link::Message* message) {
  on_progress_();
  Channel* channel = find(channel_id);
  if (channel == nullptr || channel->state != State::kOpen) return;
  const auto found = channel->lanes.find(lane_id);
  if (found == channel->lanes.end() || !found->second.opened) return;
  Lane& lane = found->second;
  const Opened opened = std::exchange(lane.opened, nullptr);
  Status status;
  if (message == nullptr || message->body_as_LaneReady() == nullptr) status = reason_of(message);
  if (status.ok() && channel->is_ring) status = seal_future_writes(lane.fds[1].get());
  if (!status.ok()) {
    if (channel->is_ring) {
      channel->lanes.erase(found);
    } else {
      channels_.erase(channel_id);
    }
    return opened(error(status));
  }
  LaneOffer offer;
  offer.channel_id = channel_id;
  offer.lane_id = lane_id;
  channel->is_known_to_client = true;
  offer.is_new_channel = !channel->new_fds.empty();
  offer.worker_incarnation = channel->incarnation;
  offer.plan = lane.plan;
  offer.fds = std::exchange(channel->new_fds, {});
  for (UniqueFd& fd : lane.fds) offer.fds.push_back(std::move(fd));
  lane.fds.clear();
  opened(std::move(offer));
}

std::optional<std::uint64_t> ChannelBroker::connection_of(const WorkerSlot& slot,
                                                          std::uint64_t channel_id) const {
  const auto found = channels_.find(channel_id);
  if (found == channels_.end() || found->second.worker_id != slot.id()) return std::nullopt;
  return found->second.connection_id;
}

std::size_t ChannelBroker::lane_count() const {
  std::size_t count = 0;
  for (const auto& [id, channel] : channels_) count += channel.lanes.size();
  return count;
}

bool ChannelBroker::has_channels(const WorkerSlot& slot) const {
  return std::any_of(channels_.begin(), channels_.end(),
                     [&](const auto& item) { return item.second.worker_id == slot.id(); });
}

}  // namespace bucketd::supervisor
