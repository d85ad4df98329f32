#include "libclient/control_connection.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/message_socket.h"
#include "common/system_error.h"
#include "common/wire/model_wire.h"
#include "libclient/poll_wait.h"
#include "libclient/ring_channel.h"
#include "libclient/stream_channel.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;
using flatbuffers::FlatBufferBuilder;

// How stale the view of the control connection may be when a request starts.
constexpr std::chrono::milliseconds kPumpInterval{20};
// Descriptors of a new ring channel that precede those of the lane; of a ring lane; of a stream.
constexpr std::size_t kChannelFds = 3;
constexpr std::size_t kRingLaneFds = 2;
constexpr std::size_t kStreamFds = 1;

std::span<const std::byte> finish(FlatBufferBuilder& builder, std::uint64_t request_id,
                                  const ControlConnection::Body& body) {
  builder.Finish(wire::CreateMessage(builder, request_id, body.first, body.second));
  return std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
}

Status daemon_is_away(const std::string& why) {
  return Status(StatusCode::kUnavailable, "the daemon is away: " + why);
}

}  // namespace

Result<std::shared_ptr<ControlConnection>> ControlConnection::connect(
    const ConnectionOptions& options, TimePoint deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options.socket_path.empty() || options.socket_path.size() >= sizeof(address.sun_path)) {
    return error(StatusCode::kInvalidArgument,
                 "the socket path '" + options.socket_path + "' has not 1 to " +
                     std::to_string(sizeof(address.sun_path) - 1) + " characters");
  }
  std::memcpy(address.sun_path, options.socket_path.data(), options.socket_path.size());
  ProcessFd socket;
  {
    const ForkLock lock;
    UniqueFd made(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!made) return error(status_from_errno("create a socket", errno));
    socket = ProcessFd(lock, std::move(made));
  }
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int why = errno;
    const std::string where = " on " + options.socket_path;
    if (why == ENOENT || why == ECONNREFUSED || why == EAGAIN) {
      return error(
          StatusCode::kUnavailable,
          (why == EAGAIN ? "the daemon is too busy to accept connections" : "no daemon listens") +
              where);
    }
    if (why == EACCES || why == EPERM) {
      return error(StatusCode::kPermissionDenied, "this user may not use the daemon" + where);
    }
    return error(status_from_errno("connect to the daemon" + where, why));
  }
  const std::shared_ptr<ControlConnection> connection(
      new ControlConnection(options, std::move(socket)));
  if (const Status status = connection->greet(deadline); !status.ok()) return error(status);
  return connection;
}

ControlConnection::ControlConnection(ConnectionOptions options, ProcessFd socket)
    : options_(std::move(options)), socket_(std::move(socket)) {}

ControlConnection::~ControlConnection() {
  // Channels outlive it when replies of theirs do; nothing is in flight on them any more.
  if (poll_set_ != nullptr && fd() >= 0) poll_set_->remove(fd());
  const Status status(StatusCode::kUnavailable, "the client was closed");
  for (const auto& [id, channel] : channels_) channel->close(status);
}

Status ControlConnection::greet(TimePoint deadline) {
  const std::uint64_t feature =
      options_.transport == Transport::kStream ? kFeatureStream : kFeatureRing;
  const auto hello = [&](FlatBufferBuilder& builder) -> Body {
    const auto name = builder.CreateString(options_.client_name);
    return {wire::Body::Hello, wire::CreateHello(builder, kProtocolMajor, kProtocolMinor,
                                                 kFeatureRing | kFeatureStream, name)
                                   .Union()};
  };
  const Result<Answer> answer = call(hello, wire::Body::Welcome, deadline);
  if (!answer) return answer.error();
  const wire::Welcome& welcome = *answer->message().body_as_Welcome();
  if (welcome.major() != kProtocolMajor) {
    return Status(StatusCode::kFailedPrecondition,
                  "the daemon speaks protocol version " + std::to_string(welcome.major()) +
                      ", this client library version " + std::to_string(kProtocolMajor));
  }
  if ((welcome.features() & feature) == 0) {
    return Status(StatusCode::kUnimplemented,
                  std::string("the daemon does not offer the ") +
                      (options_.transport == Transport::kStream ? "stream" : "ring") +
                      " transport");
  }
  return Status();
}

Result<Answer> ControlConnection::call(const Compose& compose, wire::Body expected,
                                       TimePoint deadline) {
  std::unique_lock lock(mutex_);
  if (has_ended()) return error(end_status_);
  const std::uint64_t id = next_request_id_++;
  Pending& pending = pending_[id];
  FlatBufferBuilder builder;
  const std::span<const std::byte> bytes = finish(builder, id, compose(builder));
  if (const Status status = send_locked(lock, bytes, deadline); !status.ok()) {
    pending_.erase(id);
    return error(status);
  }
  wait_locked(
      lock, [&] { return pending.answered; }, deadline);
  if (!pending.answered) {
    pending_.erase(id);
    if (has_ended()) return error(end_status_);
    return error(StatusCode::kDeadlineExceeded, "the daemon did not answer in time");
  }
  Result<Answer> answer = std::move(pending.answer);
  pending_.erase(id);
  if (!answer) return answer;
  const wire::Message& message = answer->message();
  if (const wire::Error* failure = message.body_as_Error()) {
    Status status = wire::from_wire(failure->status());
    if (status.ok()) status = Status(StatusCode::kInternal, "the daemon sent an empty error");
    return error(std::move(status));
  }
  if (message.body_type() != expected) {
    return error(StatusCode::kInternal, std::string("the daemon answered ") +
                                            wire::EnumNameBody(message.body_type()) + " where " +
                                            wire::EnumNameBody(expected) + " is expected");
  }
  return answer;
}

Status ControlConnection::send_locked(std::unique_lock<std::mutex>& lock,
                                      std::span<const std::byte> bytes, TimePoint deadline) {
  while (!has_ended()) {
    Status status;
    while (!unsent_.empty() && status.ok()) {
      status = send_message(socket_.get(), unsent_.front());
      if (status.ok()) unsent_.erase(unsent_.begin());
    }
    if (status.ok()) status = send_message(socket_.get(), bytes);
    if (status.ok()) return status;
    if (status.code() == StatusCode::kInvalidArgument) return status;
    if (status.code() != StatusCode::kWouldBlock) {
      // What the daemon said before it went, for example why it refuses this client, still counts.
      receive_all_locked();
      if (!has_ended()) end_locked(daemon_is_away(status.message()));
      break;
    }
    if (Clock::now() >= deadline) {
      return Status(StatusCode::kDeadlineExceeded, "the daemon did not take the request in time");
    }
    lock.unlock();
    std::array fds{pollfd{socket_.get(), POLLOUT, 0}};
    poll_until(fds, deadline);
    lock.lock();
  }
  return end_status_;
}

void ControlConnection::post_locked(const Compose& compose) {
  if (has_ended()) return;
  FlatBufferBuilder builder;
  const std::span<const std::byte> bytes = finish(builder, next_request_id_++, compose(builder));
  if (unsent_.empty() && send_message(socket_.get(), bytes).ok()) return;
  unsent_.emplace_back(bytes.begin(), bytes.end());
}

void ControlConnection::lane_is_over(std::uint64_t channel_id, std::uint32_t lane_id,
                                     bool was_closed) {
  const std::lock_guard lock(mutex_);
  if (options_.transport == Transport::kStream) channels_.erase(channel_id);
  if (was_closed) return;
  post_locked([&](FlatBufferBuilder& builder) -> Body {
    return {wire::Body::CloseLane, wire::CreateCloseLane(builder, channel_id, lane_id).Union()};
  });
}

void ControlConnection::pump() {
  const std::lock_guard lock(mutex_);
  // A reader is about to take it in; taking it away could leave it asleep.
  if (has_reader_) return;
  receive_all_locked();
  changed_.notify_all();
}

void ControlConnection::pump_now_and_then() {
  const std::int64_t now =
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
  const std::int64_t last = last_pump_ns_.load(std::memory_order_relaxed);
  if (now - last < std::chrono::nanoseconds(kPumpInterval).count()) return;
  last_pump_ns_.store(now, std::memory_order_relaxed);
  pump();
}

bool ControlConnection::wait_until(const std::function<bool()>& done, TimePoint deadline) {
  std::unique_lock lock(mutex_);
  return wait_locked(lock, done, deadline);
}

bool ControlConnection::wait_locked(std::unique_lock<std::mutex>& lock,
                                    const std::function<bool()>& done, TimePoint deadline) {
  while (true) {
    if (!has_reader_) receive_all_locked();
    if (done()) break;
    if (has_ended() || Clock::now() >= deadline) break;
    if (has_reader_) {
      changed_.wait_until(lock, deadline);
      continue;
    }
    has_reader_ = true;
    lock.unlock();
    std::array fds{pollfd{socket_.get(), POLLIN, 0}};
    poll_until(fds, deadline);
    lock.lock();
    has_reader_ = false;
    receive_all_locked();
    changed_.notify_all();
  }
  // Whoever waits for more reads on.
  changed_.notify_all();
  return done();
}

void ControlConnection::receive_all_locked() {
  while (!has_ended()) {
    std::vector<ProcessFd> fds;
    Result<ReceivedMessage> received = error(StatusCode::kWouldBlock, "");
    {
      const ForkLock fork_lock;
      received = receive_message(socket_.get());
      if (received) {
        for (UniqueFd& fd : received->fds) fds.emplace_back(fork_lock, std::move(fd));
      }
    }
    if (!received && received.error().code() == StatusCode::kWouldBlock) return;
    if (!received) return end_locked(daemon_is_away(received.error().message()));
    handle_locked(std::move(received->bytes), std::move(fds));
  }
}

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
  // The caller gave up meanwhile. A lane that came too late is nobody's.
  if (!answer) return;
  if (const wire::LaneOpened* opened = answer->message().body_as_LaneOpened()) {
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

void ControlConnection::end_locked(const Status& status) {
  if (has_ended()) return;
  end_status_ = status;
  if (poll_set_ != nullptr) {
    poll_set_->remove(socket_.get());
    poll_set_->raise();
  }
  ended_.store(true, std::memory_order_release);
  // Wakes a reader that sleeps on it.
  ::shutdown(socket_.get(), SHUT_RDWR);
  for (const auto& [id, channel] : channels_) channel->connection_ended(status);
  channels_.clear();
  changed_.notify_all();
}

void ControlConnection::enable_poll(std::shared_ptr<PollSet> poll_set) {
  const std::lock_guard lock(mutex_);
  if (poll_set_ != nullptr || has_ended()) return;
  poll_set_ = std::move(poll_set);
  poll_set_->add(socket_.get(), EPOLLIN);
  for (const auto& [id, channel] : channels_) channel->enable_poll(poll_set_);
  poll_set_->raise();
}

void ControlConnection::dispatch() {
  std::vector<std::shared_ptr<Channel>> channels;
  {
    const std::lock_guard lock(mutex_);
    if (!has_reader_) receive_all_locked();
    for (const auto& [id, channel] : channels_) channels.push_back(channel);
  }
  changed_.notify_all();
  for (const auto& channel : channels) channel->dispatch();
}

}  // namespace bucketd::internal
