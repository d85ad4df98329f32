// EventFd: wakes a thread of this process that sleeps in poll or epoll. Never shared with another
// process.
//
// Thread safety: notify() from any thread; drain() from the sleeper.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "bucketd/status.h"
#include "common/fd.h"
#include "common/system_error.h"

namespace bucketd {

class EventFd {
 public:
  static Result<EventFd> make() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) return error(status_from_errno("create an eventfd", errno));
    return EventFd(std::move(fd));
  }

  int fd() const { return fd_.get(); }

  // Makes the descriptor readable. Cannot block: a full counter is as good as one more.
  void notify() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof(one));
  }

  // Makes it unreadable until the next notify().
  void drain() const {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto received = ::read(fd_.get(), &count, sizeof(count));
  }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace bucketd
