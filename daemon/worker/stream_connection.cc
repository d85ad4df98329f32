#include "daemon/worker/stream_connection.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "daemon/worker/answer.h"

namespace bucketd {
// Nothing: `got` grew. Else why it did not.
std::optional<StreamConnection::Progress> StreamConnection::receive_into(std::byte* data,
                                                                         std::uint64_t bytes,
                                                                         std::uint64_t& got) {
  const ssize_t received =
      ::recv(socket_.get(), data, std::min(bytes, kStreamBytesATurn), MSG_DONTWAIT);
  if (received == 0) return Progress::kEnded;
  if (received < 0) {
    if (errno == EINTR) return Progress::kMore;
    return errno == EAGAIN || errno == EWOULDBLOCK ? Progress::kWaiting : Progress::kEnded;
  }
  got += static_cast<std::uint64_t>(received);
  return std::nullopt;
}

bool StreamConnection::begin_body() {
  const StreamFrameHeader& frame = in_head_.frame;
  if (frame.magic != kStreamFrameMagic ||
      frame.kind != static_cast<std::uint32_t>(StreamFrameKind::kSubmit)) {
    violation_ = "what it sent on its stream is no submission frame";
    return false;
  }
  if (frame.body_bytes < sizeof(SubmissionEntry) ||
      frame.body_bytes - sizeof(SubmissionEntry) > lane_->max_body_bytes()) {
    violation_ = "a frame of " + std::to_string(frame.body_bytes) + " bytes; " +
                 std::to_string(sizeof(SubmissionEntry)) + " to " +
                 std::to_string(sizeof(SubmissionEntry) + lane_->max_body_bytes()) +
                 " are possible";
    return false;
  }
  body_bytes_ = frame.body_bytes - sizeof(SubmissionEntry);
  body_got_ = 0;
  SubmissionEntry entry;
  std::memcpy(&entry, in_head_.entry, sizeof(entry));
  filling_ = lane_->fill(body_bytes_, entry.slot);
  // Without memory the frame is read over, and answered when it is through.
  is_discarding_ = filling_->data == nullptr;
  return true;
}

void StreamConnection::submit(Scheduler& scheduler) {
  SubmissionEntry entry;
  std::memcpy(&entry, in_head_.entry, sizeof(entry));
  entry.slot = filling_->slot;  // the client's own number is only echoed
  filling_.reset();
  head_got_ = 0;
  lane_->begin(entry.slot);
  if (is_discarding_) {
    is_discarding_ = false;
    answer_error(
        *lane_, make_completion(entry),
        Status(StatusCode::kResourceExhausted, "model '" + lane_->model().description().name +
                                                   "': no memory for a request of " +
                                                   std::to_string(body_bytes_) + " bytes"));
    return;
  }
  scheduler.submit(*lane_, entry);
}

StreamConnection::Progress StreamConnection::receive(Scheduler& scheduler) {
  std::uint64_t turn = 0;
  while (turn < kStreamBytesATurn) {
    if (!filling_ && !lane_->has_free_slot()) return Progress::kWaiting;
    std::uint64_t got = 0;
    if (!filling_) {
      if (const auto stop = receive_into(reinterpret_cast<std::byte*>(&in_head_) + head_got_,
                                         sizeof(in_head_) - head_got_, got)) {
        return *stop;
      }
      head_got_ += got;
      turn += got;
      if (head_got_ < sizeof(in_head_)) continue;
      if (!begin_body()) return Progress::kViolated;
    } else {
      std::array<std::byte, 4096> nowhere;
      std::byte* data = is_discarding_ ? nowhere.data() : filling_->data + body_got_;
      const std::uint64_t wanted = body_bytes_ - body_got_;
      if (const auto stop = receive_into(
              data, is_discarding_ ? std::min<std::uint64_t>(wanted, nowhere.size()) : wanted,
              got)) {
        return *stop;
      }
      body_got_ += got;
      turn += got;
    }
    if (body_got_ == body_bytes_) submit(scheduler);
  }
  return Progress::kMore;
}

StreamConnection::Progress StreamConnection::send() {
  std::uint64_t turn = 0;
  while (turn < kStreamBytesATurn) {
    if (!sending_) {
      sending_ = lane_->next_answer();
      if (!sending_) return Progress::kWaiting;
      sent_ = 0;
      static_assert(sizeof(CompletionEntry) == sizeof(Head::entry));
      out_head_.frame = {kStreamFrameMagic, static_cast<std::uint32_t>(StreamFrameKind::kComplete),
                         sizeof(CompletionEntry) + sending_->output.size()};
      std::memcpy(out_head_.entry, &sending_->entry, sizeof(CompletionEntry));
    }
    const std::uint64_t head_sent = std::min<std::uint64_t>(sent_, sizeof(out_head_));
    const std::uint64_t body_sent = sent_ - head_sent;
    // sendmsg does not write to what it sends.
    std::array<iovec, 2> parts = {
        iovec{reinterpret_cast<std::byte*>(&out_head_) + head_sent, sizeof(out_head_) - head_sent},
        iovec{const_cast<std::byte*>(sending_->output.data()) + body_sent,
              sending_->output.size() - body_sent}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK ? Progress::kWaiting : Progress::kEnded;
    }
    sent_ += static_cast<std::uint64_t>(sent);
    turn += static_cast<std::uint64_t>(sent);
    if (sent_ == sizeof(out_head_) + sending_->output.size()) {
      lane_->free(sending_->slot);
      sending_.reset();
    }
  }
  return Progress::kMore;
}

}  // namespace bucketd
