#include "libclient/fork_awareness.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "common/system_error.h"

namespace bucketd::internal {
namespace {

struct RegisteredFd {
  int fd = -1;
  bool is_epoll = false;
};

// All descriptors of the library in this process. Never destroyed: handles of static storage may
// outlive any static object here.
class FdRegistry {
 public:
  static FdRegistry& instance() {
    static FdRegistry* const registry = new FdRegistry;
    return *registry;
  }

  std::mutex& mutex() { return mutex_; }
  std::uint64_t generation() const { return generation_.load(std::memory_order_relaxed); }

  // With mutex() held:
  void add(int fd, bool is_epoll) { fds_.push_back({fd, is_epoll}); }
  void remove(int fd) {
    const auto found = std::find_if(fds_.begin(), fds_.end(),
                                    [fd](const RegisteredFd& known) { return known.fd == fd; });
    if (found == fds_.end()) return;
    *found = fds_.back();
    fds_.pop_back();
  }

 private:
  FdRegistry() {
    ::pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] {
                       instance().leave_parent();
                       instance().mutex_.unlock();
                     });
  }

  // In the child, before fork() returns there. Only system calls: a child of a process with threads
  // may do little else.
  void leave_parent() {
    generation_.fetch_add(1, std::memory_order_relaxed);
    std::size_t kept = 0;
    for (const RegisteredFd& known : fds_) {
      if (!known.is_epoll) {
        ::close(known.fd);
        continue;
      }
      const int fresh = ::epoll_create1(EPOLL_CLOEXEC);
      if (fresh < 0) {
        ::close(known.fd);
        continue;
      }
      ::dup3(fresh, known.fd, O_CLOEXEC);
      ::close(fresh);
      fds_[kept++] = known;
    }
    fds_.resize(kept);
  }

  std::mutex mutex_;
  std::atomic<std::uint64_t> generation_{1};
  std::vector<RegisteredFd> fds_;
};

}  // namespace

std::uint64_t fork_generation() { return FdRegistry::instance().generation(); }

ForkLock::ForkLock() : lock_(FdRegistry::instance().mutex()) {}

ProcessFd::ProcessFd(const ForkLock&, UniqueFd fd, bool is_epoll)
    : fd_(fd.release()), generation_(fork_generation()) {
  if (fd_ >= 0) FdRegistry::instance().add(fd_, is_epoll);
}

ProcessFd ProcessFd::inherited_epoll(int fd) {
  ProcessFd inherited;
  inherited.fd_ = fd;
  inherited.generation_ = fork_generation();
  return inherited;
}

ProcessFd& ProcessFd::operator=(ProcessFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    generation_ = other.generation_;
  }
  return *this;
}

void ProcessFd::reset() {
  if (is_open()) {
    const ForkLock lock;
    FdRegistry::instance().remove(fd_);
    ::close(fd_);
  }
  fd_ = -1;
}

Result<SharedMap> SharedMap::map(int fd, std::uint64_t byte_size, MapAccess access) {
  if (const Status status = check_sealed(fd, byte_size); !status.ok()) return error(status);
  const ForkLock lock;  // no fork sees the map before it is kept out of children
  Result<MappedRegion> region = map_memfd(fd, byte_size, access);
  if (!region) return error(region.error());
  SharedMap map;
  map.generation_ = fork_generation();
  map.region_ = std::make_unique<MappedRegion>(std::move(*region));
  if (::madvise(map.region_->get_address(), map.region_->get_size(), MADV_DONTFORK) != 0) {
    return error(status_from_errno("keep shared memory out of forked children", errno));
  }
  return map;
}

SharedMap::~SharedMap() {
  if (region_ == nullptr || generation_ == fork_generation()) return;
  // In a child the address range is not mapped, or is somebody else's by now: the object is left
  // behind, unmapping nothing.
  [[maybe_unused]] MappedRegion* const left = region_.release();
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): as said

}  // namespace bucketd::internal
