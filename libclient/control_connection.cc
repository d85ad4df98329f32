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

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;
using flatbuffers::FlatBufferBuilder;

// How stale the view of the control connection may be when a request starts.
constexpr std::chrono::milliseconds kPumpInterval{20};
std::span<const std::byte> finish(FlatBufferBuilder& builder, std::uint64_t request_id,
                                  const ControlConnection::Body& body) {
  builder.Finish(wire::CreateMessage(builder, request_id, body.first, body.second));
  return std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
}

}  // namespace

Status ControlConnection::daemon_is_away(const std::string& why) {
  return Status(StatusCode::kUnavailable, "the daemon is away: " + why);
}

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
  Status status = connection->greet(deadline);
  if (status.code() == StatusCode::kDeadlineExceeded) {
    status = Status(StatusCode::kUnavailable,
                    "the daemon on " + options.socket_path + " does not answer");
  }
  if (!status.ok()) return error(std::move(status));
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
  daemon_incarnation_ = welcome.daemon_incarnation();
  return Status();
}

Result<Answer> ControlConnection::call(const Compose& compose, wire::Body expected,
                                       TimePoint deadline, LateSession late) {
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
    if (late != LateSession::kIgnore) late_sessions_[id] = late;
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
    Status status = flush_unsent_locked();
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

Status ControlConnection::flush_unsent_locked() {
  Status status;
  while (!unsent_.empty() && status.ok()) {
    status = send_message(socket_.get(), unsent_.front());
    if (status.ok()) unsent_.erase(unsent_.begin());
  }
  return status;
}

void ControlConnection::post_locked(const Compose& compose) {
  if (has_ended()) return;
  FlatBufferBuilder builder;
  const std::span<const std::byte> bytes = finish(builder, next_request_id_++, compose(builder));
  if (unsent_.empty() && send_message(socket_.get(), bytes).ok()) return;
  unsent_.emplace_back(bytes.begin(), bytes.end());
}

void ControlConnection::lane_is_over(std::uint64_t channel_id, std::uint32_t lane_id,
                                     bool daemon_knows) {
  const std::lock_guard lock(mutex_);
  if (options_.transport == Transport::kStream) channels_.erase(channel_id);
  if (daemon_knows) return;
  post_locked([&](FlatBufferBuilder& builder) -> Body {
    return {wire::Body::CloseLane, wire::CreateCloseLane(builder, channel_id, lane_id).Union()};
  });
}

void ControlConnection::post_close_session_locked(const std::string& session_id, bool keep_state) {
  post_locked([&](FlatBufferBuilder& builder) -> Body {
    const auto id = builder.CreateString(session_id);
    return {wire::Body::CloseSession, wire::CreateCloseSession(builder, id, keep_state).Union()};
  });
}

void ControlConnection::post_close_session(const std::string& session_id, bool keep_state) {
  const std::lock_guard lock(mutex_);
  post_close_session_locked(session_id, keep_state);
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
  // Whoever looks at the connection helps along what it did not take before. An end is noticed
  // below.
  if (!unsent_.empty() && !has_ended()) {
    [[maybe_unused]] const Status status = flush_unsent_locked();
  }
  bool is_reset = false;
  while (!has_ended()) {
    // Mostly nothing is there, which is found out without building a status that says so.
    char first = 0;
    if (::recv(socket_.get(), &first, sizeof(first), MSG_PEEK | MSG_DONTWAIT) < 0 &&
        (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    }
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
    // A daemon that went without having read everything makes one call fail, before what it sent.
    if (!received && received.error().code() == StatusCode::kUnavailable &&
        !std::exchange(is_reset, true)) {
      continue;
    }
    if (!received) return end_locked(daemon_is_away(received.error().message()));
    handle_locked(std::move(received->bytes), std::move(fds));
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
