// What a forked child must not share with its parent: descriptors and maps of shared memory.
//
// A child that kept a copy of its parent's control socket would keep the parent's connection alive
// after the parent's end, and one that kept its maps could write into the parent's requests. So
// every descriptor of this library is a ProcessFd, which a pthread_atfork handler closes in the
// child at once, and every map is a SharedMap, which MADV_DONTFORK keeps out of the child. Handles
// notice by fork_generation() that they were made by another process.
//
// Thread safety: all functions from any thread. ProcessFd and SharedMap are values, like a
// unique_ptr.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "bucketd/status.h"
#include "common/fd.h"
#include "common/memfd.h"

namespace bucketd::internal {

// Grows by one in every forked child. Never 0.
std::uint64_t fork_generation();

// While one lives, this process does not fork: a descriptor can be made and registered (or
// unregistered and closed) without a fork in between. Held for non-blocking calls only.
class ForkLock {
 public:
  ForkLock();

 private:
  std::unique_lock<std::mutex> lock_;
};

// Owns a descriptor that forked children do not keep.
class ProcessFd {
 public:
  ProcessFd() = default;
  // Takes over `fd`, which was made under `lock`. `is_epoll`: the child gets a new empty epoll
  // instance under the same number instead, so that whoever remembers the number never meets a
  // stranger's file there.
  ProcessFd(const ForkLock& lock, UniqueFd fd, bool is_epoll = false);
  // In a forked child: the new instance under the number of the parent's epoll.
  static ProcessFd inherited_epoll(int fd);
  ProcessFd(ProcessFd&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), generation_(other.generation_) {}
  ProcessFd& operator=(ProcessFd&& other) noexcept;
  ~ProcessFd() { reset(); }

  // -1 when there is none, or when it was the parent's.
  int get() const { return generation_ == fork_generation() ? fd_ : -1; }
  bool is_open() const { return get() >= 0; }
  void reset();

 private:
  int fd_ = -1;
  std::uint64_t generation_ = 0;
};

// A map of a whole memfd, absent from forked children.
class SharedMap {
 public:
  SharedMap() = default;
  // Checks size and seals, then maps.
  static Result<SharedMap> map(int fd, std::uint64_t byte_size, MapAccess access);
  SharedMap(SharedMap&&) noexcept = default;
  SharedMap& operator=(SharedMap&&) = delete;
  ~SharedMap();

  std::byte* data() const { return static_cast<std::byte*>(region_->get_address()); }

 private:
  std::unique_ptr<MappedRegion> region_;
  std::uint64_t generation_ = 0;
};

// A T for each process of a family of forks: get() in a child makes a new one, since the parent's
// may have been copied half-changed, with its mutexes locked. The parent's copy is left alone: its
// few bytes are not worth the risk of touching it.
template <typename T>
class ForkLocal {
 public:
  ForkLocal() : node_(new Node) {}
  ForkLocal(const ForkLocal&) = delete;
  ForkLocal& operator=(const ForkLocal&) = delete;
  ~ForkLocal() {
    Node* node = node_.load(std::memory_order_acquire);
    if (node->generation == fork_generation()) delete node;
  }

  T& get() const {
    Node* node = node_.load(std::memory_order_acquire);
    if (node->generation == fork_generation()) return node->value;
    auto fresh = std::make_unique<Node>();
    // The loser of a race among the child's threads takes the winner's.
    if (node_.compare_exchange_strong(node, fresh.get(), std::memory_order_acq_rel)) {
      return fresh.release()->value;
    }
    return node->value;
  }

 private:
  struct Node {
    std::uint64_t generation = fork_generation();
    T value;
  };
  mutable std::atomic<Node*> node_;
};

}  // namespace bucketd::internal
