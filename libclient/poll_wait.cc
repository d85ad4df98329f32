#include "libclient/poll_wait.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace bucketd::internal {

void poll_until(std::span<pollfd> fds, std::chrono::steady_clock::time_point until) {
  using std::chrono::nanoseconds;
  const nanoseconds left =
      std::max<nanoseconds>(until - std::chrono::steady_clock::now(), nanoseconds::zero());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  const timespec timeout{static_cast<time_t>(seconds.count()),
                         static_cast<long>((left - seconds).count())};
  if (::ppoll(fds.data(), fds.size(), &timeout, nullptr) > 0) return;
  for (pollfd& fd : fds) fd.revents = 0;
}

UniqueFd make_event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void raise_event(int fd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof(one));
}

void drain_event(int fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof(count));
}

}  // namespace bucketd::internal
