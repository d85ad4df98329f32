#include "daemon/supervisor/service_notification.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

namespace bucketd::supervisor {

void notify_ready() { ::sd_notify(0, "READY=1"); }

void notify_stopping() { ::sd_notify(0, "STOPPING=1"); }

void notify_status(const std::string& text) { ::sd_notify(0, ("STATUS=" + text).c_str()); }

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
