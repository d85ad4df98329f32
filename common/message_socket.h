// Packets with file descriptors over AF_UNIX SOCK_SEQPACKET: the transport of both control
// protocols.
//
// All calls are non-blocking and may be made from one thread at a time per direction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"

namespace bucketd {

// Largest packet. Linux limits one to the socket's send buffer, 212,992 bytes by default.
inline constexpr std::size_t kMaxPacketBytes = 160 * 1024;
// Most bytes of a state in one answer to ReadState (wire/control.fbs).
inline constexpr std::size_t kMaxStateReadBytes = 128 * 1024;
// Most descriptors in a packet.
inline constexpr std::size_t kMaxPacketFds = 8;

struct ReceivedMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;
  // Some descriptors could not be received: this process has as many open as it may.
  bool lost_fds = false;
};

// Sends one packet. WOULD_BLOCK when the peer's queue is full (nothing was sent), UNAVAILABLE when
// the peer is gone, INVALID_ARGUMENT when it is larger than the limit.
Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds = {});

// Receives one packet with its descriptors (close-on-exec). WOULD_BLOCK when there is none,
// UNAVAILABLE at the end of the connection, INVALID_ARGUMENT when the packet was cut off or brought
// more descriptors than `max_fds` (everything received is closed).
Result<ReceivedMessage> receive_message(int socket, std::size_t max_fds = kMaxPacketFds);

// A connected pair, close-on-exec and non-blocking. `type` is SOCK_SEQPACKET or SOCK_STREAM.
struct SocketPair {
  UniqueFd first;
  UniqueFd second;
};
Result<SocketPair> make_socket_pair(int type);

}  // namespace bucketd
