#include "daemon/worker/doorbells.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace bucketd {
namespace {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

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
  interest.data.ptr = nullptr;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event->fd(), &interest) != 0) {
    return error(status_from_errno("watch an eventfd", errno));
  }
  return std::unique_ptr<Doorbells>(new Doorbells(policy, std::move(epoll), std::move(*event)));
}

void Doorbells::update_epoll(Watched& watched) {
  const bool wanted = kind() == Wakeup::kSocket && !watched.is_slow && !watched.is_dead;
  if (wanted == watched.is_in_epoll) return;
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.ptr = watched.channel.get();
  const int result = ::epoll_ctl(epoll_.get(), wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
                                 watched.channel->socket(), &interest);
  watched.is_in_epoll = wanted && result == 0;
  // The kernel has no room for another one: it is looked into from time to time instead.
  if (wanted && result != 0) set_slow(watched, true);
}

void Doorbells::set_slow(Watched& watched, bool is_slow) {
  if (watched.is_slow == is_slow) return;
  watched.is_slow = is_slow;
  is_slow ? ++slow_count_ : --slow_count_;
  update_epoll(watched);
}

void Doorbells::refresh(std::span<const std::shared_ptr<RingChannel>> channels,
                        std::uint64_t version) {
  version_ = version;
  const bool by_words =
      policy_ != WakeupPolicy::kSocket && has_futex_wait_any() && channels.size() < kMaxFutexWords;
  kind_.store(by_words ? Wakeup::kFutex : Wakeup::kSocket, std::memory_order_relaxed);
  // Those that stay keep what is known of them; of the others, sockets leave the epoll set.
  std::vector<Watched> next;
  next.reserve(channels.size());
  for (const std::shared_ptr<RingChannel>& channel : channels) {
    Channel::Scheduling& scheduling = channel->scheduling;
    const bool was_watched = scheduling.watch_index < watched_.size() &&
                             watched_[scheduling.watch_index].channel == channel;
    next.push_back(was_watched ? std::move(watched_[scheduling.watch_index])
                               : Watched{channel, 0, false, false, false, false});
    scheduling.watch_index = next.size() - 1;
  }
  for (Watched& left : watched_) {
    if (left.channel == nullptr) continue;
    if (left.is_slow) --slow_count_;
    if (left.is_in_epoll) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, left.channel->socket(), nullptr);
    }
  }
  watched_ = std::move(next);
  for (Watched& watched : watched_) update_epoll(watched);
}

void Doorbells::arm(std::span<const std::shared_ptr<RingChannel>> channels, std::uint64_t version) {
  if (version != version_) refresh(channels, version);
  const auto kind = static_cast<std::uint32_t>(this->kind());
  internal_seen_ = internal_.load(std::memory_order_acquire);
  for (Watched& watched : watched_) {
    credit_work(watched);
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
    if (events[i].data.ptr == nullptr) {
      event_.drain();
      continue;
    }
    // Channels stay while somebody sleeps, and the index with them.
    const auto* channel = static_cast<const RingChannel*>(events[i].data.ptr);
    Watched& watched = watched_[channel->scheduling.watch_index];
    watched.rang = true;
    if (!drain_socket(watched.channel->socket())) {
      // The other end is gone; the supervisor will close the channel. Until then it would be
      // readable for ever.
      watched.is_dead = true;
      update_epoll(watched);
    }
  }
}

void Doorbells::disarm() {
  for (Watched& watched : watched_) {
    watched.channel->need_wakeup().store(static_cast<std::uint32_t>(Wakeup::kNone),
                                         std::memory_order_relaxed);
  }
}

bool Doorbells::has_work(const Watched& watched) {
  const Channel::Scheduling& scheduling = watched.channel->scheduling;
  return scheduling.taken != scheduling.taken_before;
}

void Doorbells::credit_work(Watched& watched) {
  if (!has_work(watched)) return;
  Channel::Scheduling& scheduling = watched.channel->scheduling;
  scheduling.taken_before = scheduling.taken;
  scheduling.idle_rings = 0;
  set_slow(watched, false);
}

void Doorbells::judge_rings() {
  for (Watched& watched : watched_) {
    if (has_work(watched)) {
      credit_work(watched);
    } else if (watched.rang && !watched.is_dead &&
               ++watched.channel->scheduling.idle_rings >= kMaxIdleRings) {
      set_slow(watched, true);
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
