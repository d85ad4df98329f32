#include "daemon/supervisor/listener.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/system_error.h"

namespace bucketd::supervisor {
namespace {

constexpr int kBacklog = 512;
// Connections taken before others of the daemon's duties get their turn.
constexpr int kAcceptsPerTurn = 32;
// How long to leave callers in the backlog when there are no descriptors left.
constexpr std::chrono::milliseconds kExhaustedDelay{100};

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());  // checked with the configuration
  return address;
}

// Whether something accepts connections at `path`.
bool is_served(const std::string& path) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = address_of(path);
  if (!probe) return false;
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
             0 ||
         errno == EAGAIN;
}

Result<UniqueFd> listen_at(const SocketConfiguration& configuration) {
  const std::string action = "listen at '" + configuration.path + "'";
  if (is_served(configuration.path)) {
    return error(StatusCode::kAlreadyExists,
                 "cannot " + action + ": another daemon is serving there");
  }
  struct stat info {};
  if (::lstat(configuration.path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return error(StatusCode::kAlreadyExists,
                   "cannot " + action + ": there is something that is not a socket");
    }
    ::unlink(configuration.path.c_str());
  }
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return error(status_from_errno("create a socket", errno));
  const sockaddr_un address = address_of(configuration.path);
  // Nobody may connect before the mode is what was configured.
  const mode_t before = ::umask(0777);
  const int bound =
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int bind_error = errno;
  ::umask(before);
  if (bound != 0) return error(status_from_errno(action, bind_error));
  if (::chmod(configuration.path.c_str(), configuration.mode) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    return error(status_from_errno(action, errno));
  }
  return socket;
}

}  // namespace

Result<std::shared_ptr<Listener>> Listener::open(asio::io_context& context,
                                                 const SocketConfiguration& configuration,
                                                 UniqueFd activation, Accept accept) {
  std::string owned_path;
  if (!activation) {
    Result<UniqueFd> socket = listen_at(configuration);
    if (!socket) return error(socket.error());
    activation = std::move(*socket);
    owned_path = configuration.path;
  }
  std::shared_ptr<Listener> listener(
      new Listener(context, std::move(activation), std::move(owned_path), std::move(accept)));
  listener->wait();
  return listener;
}

Listener::Listener(asio::io_context& context, UniqueFd socket, std::string owned_path,
                   Accept accept)
    : socket_(context, socket.release()),
      retry_(context),
      owned_path_(std::move(owned_path)),
      accept_(std::move(accept)) {}

Listener::~Listener() { close(); }

void Listener::close() {
  if (!socket_.is_open()) return;
  if (!owned_path_.empty()) ::unlink(owned_path_.c_str());
  boost::system::error_code ignored;
  socket_.close(ignored);
  retry_.cancel();
}

void Listener::wait() {
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [weak = weak_from_this()](boost::system::error_code failure) {
                       const std::shared_ptr<Listener> self = weak.lock();
                       if (self && !failure) self->accept_all();
                     });
}

void Listener::accept_all() {
  for (int i = 0; i < kAcceptsPerTurn && socket_.is_open(); ++i) {
    UniqueFd connection(
        ::accept4(socket_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) {
      accept_(std::move(connection));
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      spdlog::warn("cannot accept a connection now: {}", std::strerror(errno));
      retry_.expires_after(kExhaustedDelay);
      retry_.async_wait([weak = weak_from_this()](boost::system::error_code failure) {
        const std::shared_ptr<Listener> self = weak.lock();
        if (self && !failure && self->socket_.is_open()) self->wait();
      });
      return;
    }
    break;  // none left, or one that went away before it was accepted
  }
  if (socket_.is_open()) wait();
}

}  // namespace bucketd::supervisor
