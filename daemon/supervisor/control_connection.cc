#include "daemon/supervisor/control_connection.h"

#include <algorithm>

#include "common/message_socket.h"

namespace bucketd::supervisor {
namespace {

// A client that lets more answers than this wait is not reading.
constexpr std::size_t kMaxQueuedMessages = 256;
constexpr std::size_t kMaxQueuedBytes = std::size_t{512} << 10;
// Requests handled before others get their turn.
constexpr int kRequestsPerTurn = 16;
constexpr std::chrono::seconds kHelloTimeout{10};
// Until a message is tried again that the system had no room for.
constexpr std::chrono::milliseconds kSendRetry{10};
constexpr std::size_t kMaxNameBytes = 64;

std::size_t queued_size(std::size_t bytes) { return bytes + sizeof(void*) * 8; }

}  // namespace

std::shared_ptr<ControlConnection> ControlConnection::start(asio::io_context& context,
                                                            std::uint64_t id, UniqueFd socket,
                                                            PeerCredentials peer, bool is_admin,
                                                            Handler& handler) {
  std::shared_ptr<ControlConnection> connection(
      new ControlConnection(context, id, std::move(socket), std::move(peer), is_admin, handler));
  connection->await_hello();
  connection->wait_readable();
  return connection;
}

ControlConnection::ControlConnection(asio::io_context& context, std::uint64_t id, UniqueFd socket,
                                     PeerCredentials peer, bool is_admin, Handler& handler)
    : id_(id),
      peer_(std::move(peer)),
      is_admin_(is_admin),
      handler_(handler),
      socket_(context, socket.release()),
      hello_timer_(context),
      send_timer_(context) {}

std::string ControlConnection::description() const {
  std::string text = "uid " + std::to_string(peer_.uid) + ", pid " + std::to_string(peer_.pid);
  if (!client_name_.empty()) text += " (" + client_name_ + ")";
  return text;
}

void ControlConnection::set_client_name(const std::string& name) {
  client_name_ = name.substr(0, kMaxNameBytes);
  // It goes into a log that a person reads in a terminal.
  std::replace_if(
      client_name_.begin(), client_name_.end(), [](unsigned char c) { return c < 32 || c > 126; },
      '?');
}

void ControlConnection::await_hello() {
  hello_timer_.expires_after(kHelloTimeout);
  hello_timer_.async_wait([weak = weak_from_this()](boost::system::error_code failure) {
    const std::shared_ptr<ControlConnection> self = weak.lock();
    if (self && !failure && !self->greeted_) self->close("the client sent no Hello");
  });
}

void ControlConnection::wait_readable() {
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [weak = weak_from_this()](boost::system::error_code failure) {
                       const std::shared_ptr<ControlConnection> self = weak.lock();
                       if (self && !failure) self->receive_some();
                     });
}

void ControlConnection::wait_writable() {
  socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                     [weak = weak_from_this()](boost::system::error_code failure) {
                       const std::shared_ptr<ControlConnection> self = weak.lock();
                       if (self && !failure) self->send_some();
                     });
}

void ControlConnection::wait_for_room() {
  send_timer_.expires_after(kSendRetry);
  send_timer_.async_wait([weak = weak_from_this()](boost::system::error_code failure) {
    const std::shared_ptr<ControlConnection> self = weak.lock();
    if (self && !failure) self->send_some();
  });
}

void ControlConnection::receive_some() {
  for (int i = 0; i < kRequestsPerTurn && is_open(); ++i) {
    const Result<ReceivedMessage> message = receive_message(socket_.native_handle(), 0);
    if (!message) {
      if (message.error().code() == StatusCode::kWouldBlock) break;
      if (message.error().code() == StatusCode::kUnavailable) return close(kPeerEnded);
      return close("the client broke the protocol: " + message.error().message());
    }
    handle(message->bytes);
  }
  if (is_open()) wait_readable();
}

void ControlConnection::handle(std::span<const std::byte> bytes) {
  flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (!wire::VerifyMessageBuffer(verifier)) {
    return close("the client broke the protocol: a message does not verify");
  }
  const wire::Message& message = *wire::GetMessage(bytes.data());
  if (message.request_id() == 0 || message.body() == nullptr) {
    return close("the client broke the protocol: a request without id or body");
  }
  const bool is_hello = message.body_type() == wire::Body::Hello;
  if (is_hello == greeted_) {
    return close(std::string("the client broke the protocol: ") +
                 (greeted_ ? "a second Hello" : "a request before Hello"));
  }
  greeted_ = true;
  hello_timer_.cancel();
  handler_.on_request(*this, message);
}

void ControlConnection::send(std::vector<std::byte> bytes, std::vector<UniqueFd> fds) {
  if (!is_open()) return;
  if (queue_.size() >= kMaxQueuedMessages ||
      queued_bytes_ + queued_size(bytes.size()) > kMaxQueuedBytes) {
    return close("the client does not read its answers");
  }
  queued_bytes_ += queued_size(bytes.size());
  queue_.push_back({std::move(bytes), std::move(fds)});
  if (queue_.size() == 1) send_some();
}

void ControlConnection::send_some() {
  while (is_open() && !queue_.empty()) {
    const Outgoing& next = queue_.front();
    std::vector<int> fds;
    for (const UniqueFd& fd : next.fds) fds.push_back(fd.get());
    const Status status = send_message(socket_.native_handle(), next.bytes, fds);
    if (status.code() == StatusCode::kWouldBlock) return wait_writable();
    // Too many descriptors under way to clients that do not take them, or no memory: this client is
    // not to blame, and a socket that can be written to does not say when it is over.
    if (status.code() == StatusCode::kResourceExhausted) return wait_for_room();
    queued_bytes_ -= queued_size(next.bytes.size());
    queue_.pop_front();
    if (!status.ok()) return close("the client cannot be written to: " + status.message());
  }
}

void ControlConnection::close(std::string reason) {
  if (!is_open()) return;
  // Unread requests would turn the answers that the client has not read yet into a reset.
  for (int i = 0; i < kRequestsPerTurn && receive_message(socket_.native_handle(), 0); ++i) {
  }
  boost::system::error_code ignored;
  hello_timer_.cancel();
  const auto executor = socket_.get_executor();
  socket_.close(ignored);
  queue_.clear();
  queued_bytes_ = 0;
  // Not from here: the caller may be walking over connections.
  asio::post(executor, [self = shared_from_this(), reason = std::move(reason)] {
    self->handler_.on_end(*self, reason);
  });
}

}  // namespace bucketd::supervisor
