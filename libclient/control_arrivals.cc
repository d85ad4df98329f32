// What arrives on a control connection: answers, the channels that come with them, events.
#include <utility>

#include "common/wire/model_wire.h"
#include "libclient/control_connection.h"
#include "libclient/ring_channel.h"
#include "libclient/stream_channel.h"

namespace bucketd::internal {
namespace {

// Descriptors of a new ring channel that precede those of the lane; of a ring lane; of a stream.
constexpr std::size_t kChannelFds = 3;
constexpr std::size_t kRingLaneFds = 2;
constexpr std::size_t kStreamFds = 1;

}  // namespace

using flatbuffers::FlatBufferBuilder;

void ControlConnection::handle_locked(std::vector<std::byte> bytes, std::vector<ProcessFd> fds) {
  flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (!wire::VerifyMessageBuffer(verifier)) {
    return end_locked(daemon_is_away("it sent a malformed message"));
  }
  const wire::Message& message = *wire::GetMessage(bytes.data());
  if (message.request_id() == 0) return handle_event_locked(message);
  const std::uint64_t id = message.request_id();
  Result<Answer> answer = take_answer_locked(std::move(bytes), std::move(fds));
  if (!answer && answer.error().code() == StatusCode::kInternal) {
    // What it opened cannot be used, nor told apart later: start anew.
    end_locked(daemon_is_away(answer.error().message()));
  }
  const auto found = pending_.find(id);
  if (found != pending_.end()) {
    found->second.answer = std::move(answer);
    found->second.answered = true;
    return;
  }
  // The caller gave up meanwhile. A lane or session that came too late is nobody's.
  LateSession late = LateSession::kIgnore;
  if (const auto known = late_sessions_.find(id); known != late_sessions_.end()) {
    late = known->second;
    late_sessions_.erase(known);
  }
  if (!answer) return;
  if (const wire::SessionOpened* opened = answer->message().body_as_SessionOpened()) {
    if (late == LateSession::kIgnore || opened->session_id() == nullptr) return;
    return post_close_session_locked(opened->session_id()->str(), late == LateSession::kGiveUp);
  }
  if (const wire::LaneOpened* opened = answer->message().body_as_LaneOpened()) {
    // A stream was for this lane alone.
    if (opened->transport() == wire::Transport::kStream) channels_.erase(opened->channel_id());
    post_locked([&](FlatBufferBuilder& builder) -> Body {
      return {wire::Body::CloseLane,
              wire::CreateCloseLane(builder, opened->channel_id(), opened->lane_id()).Union()};
    });
  }
}

Result<Answer> ControlConnection::take_answer_locked(std::vector<std::byte> bytes,
                                                     std::vector<ProcessFd> fds) {
  Answer answer{std::move(bytes), std::move(fds), nullptr};
  if (const wire::LaneOpened* opened = answer.message().body_as_LaneOpened()) {
    Result<std::shared_ptr<Channel>> channel = take_channel_locked(*opened, answer.fds);
    if (!channel) return error(channel.error());
    answer.channel = std::move(*channel);
  }
  return answer;
}

// The channel of a lane that was opened: a new one, whose descriptors are taken out of `fds`, or
// one that exists.
Result<std::shared_ptr<Channel>> ControlConnection::take_channel_locked(
    const wire::LaneOpened& opened, std::vector<ProcessFd>& fds) {
  const bool is_stream = opened.transport() == wire::Transport::kStream;
  const std::size_t own_fds = is_stream ? kStreamFds : opened.new_channel() ? kChannelFds : 0;
  if (is_stream != (options_.transport == Transport::kStream) ||
      fds.size() != own_fds + (is_stream ? 0 : kRingLaneFds)) {
    return error(StatusCode::kInternal, "it opened a lane of another transport or with " +
                                            std::to_string(fds.size()) + " descriptors");
  }
  const std::uint64_t id = opened.channel_id();
  const auto known = channels_.find(id);
  if (own_fds == 0) {
    if (known == channels_.end()) {
      return error(StatusCode::kInternal, "it opened a lane on a channel that does not exist");
    }
    // Closed from our side, because its worker wrote nonsense.
    if (known->second->is_closed()) {
      return error(StatusCode::kInternal, "it opened a lane on a channel that is closed");
    }
    return known->second;
  }
  if (known != channels_.end()) {
    return error(StatusCode::kInternal, "it opened a channel that exists");
  }
  std::shared_ptr<Channel> channel;
  if (is_stream) {
    channel = std::make_shared<StreamChannel>(id, std::move(fds.front()), weak_from_this(),
                                              options_.spin);
  } else {
    Result<std::shared_ptr<RingChannel>> ring =
        RingChannel::open(id, opened.worker_incarnation(), std::span(fds).first(kChannelFds),
                          weak_from_this(), options_.spin);
    if (!ring) {
      return error(ring.error().code() == StatusCode::kInternal
                       ? ring.error()
                       : Status(StatusCode::kInternal, ring.error().message()));
    }
    channel = std::move(*ring);
  }
  fds.erase(fds.begin(), fds.begin() + static_cast<std::ptrdiff_t>(own_fds));
  if (poll_set_ != nullptr) channel->enable_poll(poll_set_);
  channels_[id] = channel;
  return channel;
}

void ControlConnection::handle_event_locked(const wire::Message& message) {
  if (const wire::ChannelClosed* closed = message.body_as_ChannelClosed()) {
    const auto found = channels_.find(closed->channel_id());
    if (found == channels_.end()) return;
    std::vector<ExecutingRequest> executing;
    if (closed->executing() != nullptr) {
      for (const wire::ExecutingRequest* one : *closed->executing()) {
        executing.push_back({one->user_data(), one->lane_id()});
      }
    }
    const std::shared_ptr<Channel> channel = found->second;
    channels_.erase(found);
    channel->close(wire::from_wire(closed->status()), executing);
    return;
  }
  if (const wire::LaneClosed* closed = message.body_as_LaneClosed()) {
    const auto found = channels_.find(closed->channel_id());
    if (found == channels_.end()) return;
    found->second->close_lane(closed->lane_id(), wire::from_wire(closed->status()));
    return;
  }
  // An event of a later minor version says nothing that this version needs; a failure that belongs
  // to no request (a refused connection) is the reason of the end that follows.
  if (const wire::Error* failure = message.body_as_Error()) {
    end_locked(wire::from_wire(failure->status()));
  }
}

}  // namespace bucketd::internal
