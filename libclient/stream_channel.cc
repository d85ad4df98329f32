#include "libclient/stream_channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "libclient/poll_wait.h"

namespace bucketd::internal {

using Clock = std::chrono::steady_clock;

StreamChannel::StreamChannel(std::uint64_t id, ProcessFd socket,
                             std::weak_ptr<ControlConnection> connection,
                             std::chrono::microseconds spin)
    : Channel(id, std::move(connection), spin), socket_(std::move(socket)) {
  const ForkLock lock;
  interrupt_event_ = ProcessFd(lock, make_event());
}

void StreamChannel::push_locked(InFlight& request) {
  unsent_.push_back(&request);
  send_locked();
}

bool StreamChannel::peer_is_gone_locked() {
  collect_locked();
  return ended_;
}

void StreamChannel::send_locked() {
  while (!unsent_.empty() && !ended_) {
    InFlight& request = *unsent_.front();
    if (out_sent_ == 0) {
      SubmissionEntry entry{};
      entry.user_data = request.user_data();
      entry.session_handle = request.session_handle;
      entry.deadline_ns = deadline_ns(request);
      entry.slot = request.slot;
      entry.plan_id = request.plan ? request.plan->id : 0;
      entry.tensor_count = static_cast<std::uint16_t>(request.inputs.size());
      entry.kind =
          static_cast<std::uint8_t>(request.plan ? SubmissionKind::kPadded : SubmissionKind::kRaw);
      entry.priority = request.priority;
      out_head_.frame = {kStreamFrameMagic, static_cast<std::uint32_t>(StreamFrameKind::kSubmit),
                         sizeof(entry) + request.input_bytes};
      std::memcpy(out_head_.entry.data(), &entry, sizeof(entry));
    }
    const std::uint64_t head_sent = std::min<std::uint64_t>(out_sent_, sizeof(out_head_));
    const std::uint64_t body_sent = out_sent_ - head_sent;
    std::array<iovec, 2> parts{
        iovec{reinterpret_cast<std::byte*>(&out_head_) + head_sent, sizeof(out_head_) - head_sent},
        iovec{request.lane->input_slot(request.slot) + body_sent, request.input_bytes - body_sent}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) end_locked();
      break;
    }
    out_sent_ += static_cast<std::uint64_t>(sent);
    if (out_sent_ == sizeof(out_head_) + request.input_bytes) {
      unsent_.erase(unsent_.begin());
      out_sent_ = 0;
    }
  }
  const bool has_unsent = !unsent_.empty() && !ended_;
  if (has_unsent_.exchange(has_unsent) == has_unsent || poll_set_ == nullptr) return;
  poll_set_->change(socket_.get(), has_unsent ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void StreamChannel::collect_locked() {
  if (is_closed()) return;
  send_locked();
  while (!is_closed() && receive_locked()) {
  }
}

bool StreamChannel::receive_locked() {
  if (ended_) return false;
  std::byte* target = reinterpret_cast<std::byte*>(&in_head_) + in_received_;
  std::uint64_t wanted = sizeof(in_head_) - in_received_;
  if (in_request_ != nullptr) {
    const std::uint64_t body_received = in_received_ - sizeof(in_head_);
    auto& lane = static_cast<StreamLane&>(*in_request_->lane);
    target = lane.writable_output_slot(in_request_->slot) + body_received;
    wanted = in_head_.frame.body_bytes - sizeof(CompletionEntry) - body_received;
  }
  if (wanted > 0) {
    const ssize_t got = ::recv(socket_.get(), target, wanted, MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) return true;
      if (errno != EAGAIN && errno != EWOULDBLOCK) end_locked();
      return false;
    }
    if (got == 0) {
      end_locked();
      return false;
    }
    in_received_ += static_cast<std::uint64_t>(got);
    wanted -= static_cast<std::uint64_t>(got);
  }
  if (wanted > 0) return true;
  if (in_request_ == nullptr) {
    return begin_body_locked();
  }
  CompletionEntry entry;
  std::memcpy(&entry, in_head_.entry.data(), sizeof(entry));
  Lane& lane = *in_request_->lane;
  in_request_ = nullptr;
  in_received_ = 0;
  return complete_locked(lane, entry, in_head_.frame.body_bytes - sizeof(entry));
}

bool StreamChannel::begin_body_locked() {
  const StreamFrameHeader& frame = in_head_.frame;
  CompletionEntry entry;
  std::memcpy(&entry, in_head_.entry.data(), sizeof(entry));
  if (frame.magic != kStreamFrameMagic ||
      frame.kind != static_cast<std::uint32_t>(StreamFrameKind::kComplete) || lanes_.empty()) {
    violation_locked("it is no completion frame");
    return false;
  }
  Lane& lane = *lanes_.front();
  const auto slot = static_cast<std::uint32_t>(entry.user_data);
  if (frame.body_bytes < sizeof(entry) ||
      frame.body_bytes - sizeof(entry) > lane.layout().output_slot_bytes) {
    violation_locked("a frame of " + std::to_string(frame.body_bytes) + " bytes");
    return false;
  }
  if (slot >= lane.slots.size() || !lane.slots[slot].is_in_flight(entry.user_data)) {
    violation_locked("it answers a request that is not in flight");
    return false;
  }
  in_request_ = &lane.slots[slot];
  return true;
}

void StreamChannel::end_locked() {
  ended_.store(true, std::memory_order_release);
  // A socket at its end would keep the set readable for ever.
  if (poll_set_ != nullptr) {
    poll_set_->remove(socket_.get());
    poll_set_->raise();
  }
}

void StreamChannel::violation_locked(const std::string& what) {
  const std::string model = lanes_.empty() ? "" : "model '" + lanes_.front()->model().name + "': ";
  close_locked(Status(StatusCode::kInternal, model + "the worker's answer is damaged: " + what),
               Ending::kAsStated);
}

void StreamChannel::sleep(Clock::time_point until, bool) {
  const short events = has_unsent_ ? POLLIN | POLLOUT : POLLIN;
  std::array<pollfd, 3> fds{pollfd{ended_ ? -1 : socket_.get(), events, 0},
                            pollfd{interrupt_event_.get(), POLLIN, 0},
                            pollfd{control_fd(), POLLIN, 0}};
  poll_until(fds, until);
  if (fds[1].revents != 0) drain_event(interrupt_event_.get());
  if (fds[2].revents != 0) look_at_control();
}

void StreamChannel::interrupt() { raise_event(interrupt_event_.get()); }

void StreamChannel::enable_poll(std::shared_ptr<PollSet> poll_set) {
  const std::lock_guard lock(mutex_);
  if (poll_set_ != nullptr) return;
  poll_set_ = std::move(poll_set);
  if (is_closed() || ended_) return;
  poll_set_->add(socket_.get(), has_unsent_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
  poll_set_->raise();
}

void StreamChannel::dispatch() {
  const std::lock_guard lock(mutex_);
  collect_locked();
}

void StreamChannel::lane_removed_locked() {
  // Its one lane, so the stream is over: a frame half sent or half received lies in memory that
  // goes with the lane.
  closed_locked();
}

void StreamChannel::closed_locked() {
  if (poll_set_ != nullptr) poll_set_->remove(socket_.get());
  unsent_.clear();
  in_request_ = nullptr;
  in_received_ = 0;
  ended_.store(true, std::memory_order_release);
  // Nothing more is read or sent: what is half-sent would only mislead.
  ::shutdown(socket_.get(), SHUT_RDWR);
}

StreamLane::StreamLane(LaneTerms terms, std::shared_ptr<Channel> channel,
                       std::shared_ptr<ControlConnection> connection)
    : Lane(std::move(terms), std::move(channel), std::move(connection)),
      memory_(layout().slot_count) {}

StreamLane::~StreamLane() { leave_channel(); }

Status StreamLane::prepare_slot(std::uint32_t slot) {
  SlotMemory& memory = memory_[slot];
  if (memory.allocation != nullptr) return Status();
  // Zeroed, since gaps between tensors are sent too; pages that nobody touches cost nothing.
  const std::uint64_t bytes =
      layout().input_slot_bytes + layout().output_slot_bytes + kTensorAlignment;
  memory.allocation.reset(std::calloc(1, bytes));
  if (memory.allocation == nullptr) {
    return Status(StatusCode::kResourceExhausted, "model '" + model().name +
                                                      "': no memory for a request of up to " +
                                                      std::to_string(bytes) + " bytes");
  }
  std::size_t space = bytes;
  void* aligned = memory.allocation.get();
  memory.input = static_cast<std::byte*>(std::align(kTensorAlignment, 1, aligned, space));
  memory.output = memory.input + layout().input_slot_bytes;
  return Status();
}

}  // namespace bucketd::internal
