#include "common/message_socket.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "common/system_error.h"

namespace bucketd {

Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (bytes.size() > kMaxPacketBytes || fds.size() > kMaxPacketFds) {
    return Status(StatusCode::kInvalidArgument,
                  "a message of " + std::to_string(bytes.size()) + " bytes and " +
                      std::to_string(fds.size()) + " descriptors; at most " +
                      std::to_string(kMaxPacketBytes) + " and " + std::to_string(kMaxPacketFds) +
                      " are possible");
  }
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketFds)] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* message = CMSG_FIRSTHDR(&header);
    message->cmsg_level = SOL_SOCKET;
    message->cmsg_type = SCM_RIGHTS;
    message->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(message), fds.data(), fds.size_bytes());
  }
  while (true) {
    if (::sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return Status();
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return Status(StatusCode::kWouldBlock, "the peer's message queue is full");
    }
    return status_from_errno("send a message", errno);
  }
}

Result<ReceivedMessage> receive_message(int socket, std::size_t max_fds) {
  // A packet has one reader, which copies what it keeps: one buffer a thread is enough.
  thread_local std::vector<std::byte> buffer(kMaxPacketBytes);
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketFds)] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t received = 0;
  do {
    received = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return error(StatusCode::kWouldBlock, "no message is there");
    }
    return error(status_from_errno("receive a message", errno));
  }
  ReceivedMessage message;
  for (cmsghdr* part_header = CMSG_FIRSTHDR(&header); part_header != nullptr;
       part_header = CMSG_NXTHDR(&header, part_header)) {
    if (part_header->cmsg_level != SOL_SOCKET || part_header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part_header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part_header) + i * sizeof(int), sizeof(int));
      message.fds.emplace_back(fd);
    }
  }
  message.lost_fds = (header.msg_flags & MSG_CTRUNC) != 0;
  const std::size_t brought = message.fds.size() + (message.lost_fds ? 1 : 0);
  if ((header.msg_flags & MSG_TRUNC) != 0 || message.fds.size() > max_fds ||
      (max_fds == 0 && brought > 0)) {
    return error(StatusCode::kInvalidArgument,
                 "a message is larger, or carries more descriptors, than the protocol allows");
  }
  if (received == 0) return error(StatusCode::kUnavailable, "the peer closed the connection");
  message.bytes.assign(buffer.begin(), buffer.begin() + received);
  return message;
}

Result<SocketPair> make_socket_pair(int type) {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return error(status_from_errno("create a socket pair", errno));
  }
  return SocketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace bucketd
