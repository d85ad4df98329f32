#include "daemon/supervisor/service_notification.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace bucketd::supervisor {

namespace {

// As sd_notify, but drops the message when the service manager does not keep up: nothing that is
// sent this way is worth a daemon that waits.
void notify_if_possible(const std::string& message) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path == nullptr || path[0] == '\0' || std::strlen(path) >= sizeof(address.sun_path)) return;
  std::strcpy(address.sun_path, path);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // an abstract one
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ::sendto(socket.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&address), size);
}

}  // namespace

void notify_ready() { ::sd_notify(0, "READY=1"); }

void notify_stopping() { notify_if_possible("STOPPING=1"); }

void notify_status(const std::string& text) { notify_if_possible("STATUS=" + text); }

Result<UniqueFd> take_activation_socket() {
  const int count = ::sd_listen_fds(1);
  if (count <= 0) return UniqueFd();
  UniqueFd socket(SD_LISTEN_FDS_START);
  if (count != 1 || ::sd_is_socket_unix(socket.get(), SOCK_SEQPACKET, 1, nullptr, 0) <= 0) {
    return error(StatusCode::kInvalidArgument,
                 "socket activation passed " + std::to_string(count) +
                     " descriptors; one listening Unix socket (ListenSequentialPacket=) is needed");
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
  return socket;
}

}  // namespace bucketd::supervisor
