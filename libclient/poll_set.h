// PollSet: what Client::poll_fd() gives: one epoll instance over everything that may need a look.
//
// It holds the control socket, the channels' sockets and an eventfd. The eventfd is raised when a
// thread that waits in a call of its own took completions, or the end of a channel, out of the
// sockets that the event loop would else have seen.
//
// Thread safety: all methods from any thread. Errors of epoll_ctl are not reported: descriptors are
// added once while open, and removed before they are closed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "bucketd/status.h"
#include "libclient/fork_awareness.h"

namespace bucketd::internal {

class PollSet {
 public:
  // `inherited`: the parent's number, which in this forked child names a new empty instance
  // (ProcessFd); nothing: makes one. RESOURCE_EXHAUSTED without free descriptors.
  static Result<std::shared_ptr<PollSet>> create(std::optional<int> inherited = std::nullopt);

  int fd() const { return epoll_.get(); }
  void add(int fd, std::uint32_t events);
  void change(int fd, std::uint32_t events);
  void remove(int fd);

  void raise();
  void lower();

 private:
  PollSet() = default;
  ProcessFd epoll_;
  ProcessFd event_;
};

}  // namespace bucketd::internal
