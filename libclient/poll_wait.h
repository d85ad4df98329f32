// poll with a deadline, and eventfds to end it.
#pragma once

#include <poll.h>

#include <chrono>
#include <span>

#include "common/fd.h"

namespace bucketd::internal {

// Polls until a descriptor is ready or `until` has come; negative descriptors are skipped. A signal
// ends it early.
void poll_until(std::span<pollfd> fds, std::chrono::steady_clock::time_point until);

// A non-blocking eventfd; not open when there is no free descriptor, and then sleeps are merely not
// cut short.
UniqueFd make_event();
void raise_event(int fd);
void drain_event(int fd);

}  // namespace bucketd::internal
