#include "daemon/worker/doorbells.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace bucketd {
namespace {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

constexpr std::uint64_t kInternalEvent = ~std::uint64_t{0};

int epoll_timeout_ms(const Deadline& deadline) {
  if (!deadline) return -1;
  const auto left = *deadline - std::chrono::steady_clock::now();
  if (left <= left.zero()) return 0;
  // Rounded up: waking early would only make another turn.
  return static_cast<int>(std::min<std::int64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1, 60'000));
}

// Takes the bytes out of a channel's socket. False when the peer has closed it.
bool drain_socket(int socket) {
  // Bounded: whatever a client sends, one look costs no more than this. Epoll is level-triggered.
  std::array<char, 512> bytes;
  for (int i = 0; i < 4; ++i) {
    const auto received = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (received == 0) return false;
    if (received < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<Doorbells>> Doorbells::make(WakeupPolicy policy) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return error(status_from_errno("create an epoll instance", errno));
  Result<EventFd> event = EventFd::make();
  if (!event) return error(event.error());
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.u64 = kInternalEvent;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event->fd(), &interest) != 0) {
    return error(status_from_errno("watch an eventfd", errno));
  }
  return std::unique_ptr<Doorbells>(new Doorbells(policy, std::move(epoll), std::move(*event)));
}

void Doorbells::watch_socket(std::size_t index, bool watch) {
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.u64 = index;
  ::epoll_ctl(epoll_.get(), watch ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
              watched_[index].channel->socket(), &interest);
}

void Doorbells::refresh(std::span<const std::shared_ptr<RingChannel>> channels) {
  forget_channels();
  for (const std::shared_ptr<RingChannel>& channel : channels) {
    watched_.push_back({channel, 0, false, false, false});
  }
  const bool by_words =
      policy_ != WakeupPolicy::kSocket && has_futex_wait_any() && channels.size() < kMaxFutexWords;
  kind_.store(by_words ? Wakeup::kFutex : Wakeup::kSocket, std::memory_order_relaxed);
  if (!by_words) {
    for (std::size_t i = 0; i < watched_.size(); ++i) watch_socket(i, true);
  }
}

void Doorbells::forget_channels() {
  if (kind() == Wakeup::kSocket) {
    for (std::size_t i = 0; i < watched_.size(); ++i) {
      if (!watched_[i].is_slow && !watched_[i].is_dead) watch_socket(i, false);
    }
  }
  watched_.clear();
  slow_count_ = 0;
  version_ = 0;
}

void Doorbells::arm(std::span<const std::shared_ptr<RingChannel>> channels, std::uint64_t version) {
  if (version != version_) {
    refresh(channels);
    version_ = version;
  }
  const auto kind = static_cast<std::uint32_t>(this->kind());
  internal_seen_ = internal_.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    Watched& watched = watched_[i];
    credit_work(i);
    watched.rang = false;
    watched.seen = watched.channel->doorbell().load(std::memory_order_relaxed);
    watched.channel->need_wakeup().store(kind, std::memory_order_relaxed);
  }
  // (W1) Pairs with (C1) of the client, which stores its tail, fences, and loads need_wakeup:
  // either our look into the rings after this sees its tail, or it sees that we sleep.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Doorbells::sleep(Deadline deadline) {
  if (slow_count_ > 0) {
    const auto look = std::chrono::steady_clock::now() + std::chrono::nanoseconds(kSlowLookNs);
    deadline = deadline ? std::min(*deadline, look) : look;
  }
  if (kind() == Wakeup::kFutex) {
    sleep_on_words(deadline);
  } else {
    sleep_on_sockets(deadline);
  }
}

void Doorbells::sleep_on_words(Deadline deadline) {
  std::array<FutexWord, kMaxFutexWords> words;
  std::size_t count = 0;
  words[count++] = {&internal_, internal_seen_};
  for (const Watched& watched : watched_) {
    if (!watched.is_slow) words[count++] = {&watched.channel->doorbell(), watched.seen};
  }
  futex_wait_any({words.data(), count}, deadline);
  for (Watched& watched : watched_) {
    watched.rang = watched.channel->doorbell().load(std::memory_order_relaxed) != watched.seen;
  }
}

void Doorbells::sleep_on_sockets(Deadline deadline) {
  // wake() writes to the eventfd after it has added to the word: no need to compare the word.
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 epoll_timeout_ms(deadline));
  for (int i = 0; i < count; ++i) {
    const std::uint64_t index = events[i].data.u64;
    if (index == kInternalEvent) {
      event_.drain();
      continue;
    }
    Watched& watched = watched_[index];
    watched.rang = true;
    if (!drain_socket(watched.channel->socket())) {
      // The other end is gone; the supervisor will close the channel. Until then it would be
      // readable for ever.
      watch_socket(index, false);
      watched.is_dead = true;
    }
  }
}

void Doorbells::disarm() {
  for (Watched& watched : watched_) {
    watched.channel->need_wakeup().store(static_cast<std::uint32_t>(Wakeup::kNone),
                                         std::memory_order_relaxed);
  }
}

bool Doorbells::credit_work(std::size_t index) {
  Watched& watched = watched_[index];
  Channel::Scheduling& scheduling = watched.channel->scheduling;
  if (scheduling.taken == scheduling.taken_before) return false;
  scheduling.taken_before = scheduling.taken;
  scheduling.idle_rings = 0;
  if (watched.is_slow) {
    watched.is_slow = false;
    --slow_count_;
    if (kind() == Wakeup::kSocket) watch_socket(index, true);
  }
  return true;
}

void Doorbells::judge_rings() {
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    Watched& watched = watched_[i];
    if (credit_work(i) || !watched.rang || watched.is_slow || watched.is_dead) continue;
    if (++watched.channel->scheduling.idle_rings >= kMaxIdleRings) {
      watched.is_slow = true;
      ++slow_count_;
      if (kind() == Wakeup::kSocket) watch_socket(i, false);
    }
  }
}

void Doorbells::wake() {
  internal_.fetch_add(1, std::memory_order_release);
  futex_wake(internal_, 1);
  // Whoever arms after the addition sees it in the word; who sleeps in epoll needs the eventfd.
  if (kind() == Wakeup::kSocket) event_.notify();
}

}  // namespace bucketd
