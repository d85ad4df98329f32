// ControlConnection: one client's control socket.
//
// Frames and bounds only: every packet is verified before the handler sees it, what is sent is
// queued up to a limit, and Hello must come first. What requests mean is ControlService's affair.
//
// Owned by the Supervisor, by id. It ends when the client closes, breaks the protocol, or lets its
// answers pile up; the handler is told exactly once, from the io_context and never from within a
// call to send() or close(). After that nothing is sent or received.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"
#include "control_generated.h"
#include "daemon/supervisor/access.h"
#include "daemon/supervisor/asio.h"

namespace bucketd::supervisor {

class ControlConnection : public std::enable_shared_from_this<ControlConnection> {
 public:
  // The reason of on_end() when the client closed it, as it should.
  static constexpr const char* kPeerEnded = "the client ended it";

  class Handler {
   public:
    virtual ~Handler() = default;
    // A verified message with a body and a request_id that is not 0; the first is a Hello and no
    // later one is. The message is valid during the call only.
    virtual void on_request(ControlConnection& connection, const wire::Message& message) = 0;
    // `reason` is for the log.
    virtual void on_end(ControlConnection& connection, const std::string& reason) = 0;
  };

  // `handler` must outlive the io_context's run.
  static std::shared_ptr<ControlConnection> start(asio::io_context& context, std::uint64_t id,
                                                  UniqueFd socket, PeerCredentials peer,
                                                  bool is_admin, Handler& handler);
  ~ControlConnection() = default;

  std::uint64_t id() const { return id_; }
  const PeerCredentials& peer() const { return peer_; }
  bool is_admin() const { return is_admin_; }
  bool is_open() const { return socket_.is_open(); }
  // "uid 1000, pid 4711 (demo)".
  std::string description() const;
  // Shown to the operator only. Set once, from the Hello.
  void set_client_name(const std::string& name);

  // Sends one message, or queues it. `fds` are closed once they were sent. Closes the connection
  // when the queue is full.
  void send(std::vector<std::byte> bytes, std::vector<UniqueFd> fds = {});
  // Sends what is queued as far as the socket takes it at once, then ends the connection.
  void close(std::string reason);

 private:
  struct Outgoing {
    std::vector<std::byte> bytes;
    std::vector<UniqueFd> fds;
  };

  ControlConnection(asio::io_context& context, std::uint64_t id, UniqueFd socket,
                    PeerCredentials peer, bool is_admin, Handler& handler);
  void await_hello();
  void wait_readable();
  void wait_writable();
  void wait_for_room();
  void receive_some();
  void handle(std::span<const std::byte> bytes);
  void send_some();

  const std::uint64_t id_;
  const PeerCredentials peer_;
  const bool is_admin_;
  Handler& handler_;
  asio::posix::stream_descriptor socket_;
  asio::steady_timer hello_timer_;
  asio::steady_timer send_timer_;
  bool greeted_ = false;
  std::string client_name_;
  std::deque<Outgoing> queue_;
  std::size_t queued_bytes_ = 0;
};

}  // namespace bucketd::supervisor
