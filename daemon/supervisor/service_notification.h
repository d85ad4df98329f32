// What the service manager is told (sd_notify), and the socket it may have given us.
#pragma once

#include <string>

#include "bucketd/status.h"
#include "common/fd.h"

namespace bucketd::supervisor {

// Each does nothing when no service manager listens. notify_ready() waits until the message is
// taken, the others are lost when the service manager's queue is full.
void notify_ready();
void notify_stopping();
void notify_status(const std::string& text);

// The listening socket of socket activation (sd_listen_fds); not open when there was none. Takes
// the environment variables away. INVALID_ARGUMENT when what was passed is not exactly one
// listening AF_UNIX SOCK_SEQPACKET socket.
Result<UniqueFd> take_activation_socket();

}  // namespace bucketd::supervisor
