#include "libclient/poll_set.h"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>

#include "common/system_error.h"
#include "libclient/poll_wait.h"

namespace bucketd::internal {

Result<std::shared_ptr<PollSet>> PollSet::create(std::optional<int> inherited) {
  std::shared_ptr<PollSet> set(new PollSet);
  {
    const ForkLock lock;
    if (inherited) {
      set->epoll_ = ProcessFd::inherited_epoll(*inherited);
    } else {
      UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
      if (!epoll) return error(status_from_errno("create the descriptor to poll", errno));
      set->epoll_ = ProcessFd(lock, std::move(epoll), /*is_epoll=*/true);
    }
    set->event_ = ProcessFd(lock, make_event());
  }
  if (!set->event_.is_open()) {
    return error(StatusCode::kResourceExhausted,
                 "cannot create the descriptor to poll: no descriptor is free");
  }
  set->add(set->event_.get(), EPOLLIN);
  return set;
}

void PollSet::add(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

void PollSet::change(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void PollSet::remove(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void PollSet::raise() { raise_event(event_.get()); }

void PollSet::lower() { drain_event(event_.get()); }

}  // namespace bucketd::internal
