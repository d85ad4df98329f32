// Listener: the socket that clients connect to.
//
// Owned by the Supervisor. Takes over a socket that was passed by systemd, or makes its own; its
// own is removed from the file system when the listener is closed. A file that an earlier daemon
// left behind is replaced; a socket that somebody listens on is not.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <functional>
#include <memory>

#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

class Listener : public std::enable_shared_from_this<Listener> {
 public:
  using Accept = std::function<void(UniqueFd)>;

  // `activation`: the socket of socket activation, if open. `accept` is called with every new
  // connection (non-blocking, close-on-exec) until close().
  // Errors: ALREADY_EXISTS when another daemon listens there; else what the system says.
  static Result<std::shared_ptr<Listener>> open(asio::io_context& context,
                                                const SocketConfiguration& configuration,
                                                UniqueFd activation, Accept accept);
  ~Listener();

  // Accepts nothing any more; the file is removed. Idempotent.
  void close();

 private:
  Listener(asio::io_context& context, UniqueFd socket, std::string owned_path, Accept accept);
  void wait();
  void accept_all();

  asio::posix::stream_descriptor socket_;
  asio::steady_timer retry_;
  std::string owned_path_;  // empty: systemd's
  Accept accept_;
};

}  // namespace bucketd::supervisor
