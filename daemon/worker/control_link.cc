#include "daemon/worker/control_link.h"

#include <poll.h>

#include <algorithm>
#include <array>

#include "common/message_socket.h"
#include "common/monotonic_clock.h"

namespace bucketd {
namespace {

// Messages handled before what is waiting gets its turn.
constexpr int kMessagesAtOnce = 32;

int timeout_ms(const std::optional<std::uint64_t>& deadline_ns) {
  if (!deadline_ns) return -1;
  const std::uint64_t now_ns = monotonic_ns();
  if (*deadline_ns <= now_ns) return 0;
  return static_cast<int>(std::min<std::uint64_t>((*deadline_ns - now_ns) / 1'000'000 + 1, 60'000));
}

}  // namespace

Status ControlLink::run(Handler& handler) {
  std::optional<std::uint64_t> wanted;
  while (true) {
    const Status sent = outbox_.flush(socket_.get());
    if (sent.code() == StatusCode::kUnavailable) return Status();
    if (!sent.ok() && sent.code() != StatusCode::kWouldBlock) return sent;
    const bool has_more = sent.code() == StatusCode::kWouldBlock;
    std::array<pollfd, 2> fds = {{
        {socket_.get(), static_cast<short>(POLLIN | (has_more ? POLLOUT : 0)), 0},
        {wake_.fd(), POLLIN, 0},
    }};
    ::poll(fds.data(), fds.size(), timeout_ms(wanted));
    if (fds[1].revents != 0) wake_.drain();
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const Status received = receive(handler);
      if (received.code() == StatusCode::kUnavailable) return Status();
      if (!received.ok()) return received;
    }
    wanted = handler.on_wake();
  }
}

Status ControlLink::receive(Handler& handler) {
  for (int i = 0; i < kMessagesAtOnce; ++i) {
    Result<ReceivedMessage> received = receive_message(socket_.get());
    if (!received) {
      return received.error().code() == StatusCode::kWouldBlock ? Status() : received.error();
    }
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(received->bytes.data()),
                                   received->bytes.size());
    if (!link::VerifyMessageBuffer(verifier)) {
      return Status(StatusCode::kInvalidArgument, "the supervisor sent a malformed message");
    }
    const auto* message = link::GetMessage(received->bytes.data());
    if (Status status = handler.on_message(*message, std::move(received->fds)); !status.ok()) {
      return status;
    }
  }
  return Status();
}

}  // namespace bucketd
