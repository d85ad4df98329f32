// Doorbells: what the leading executor sleeps on when no channel has work.
//
//   (with the Scheduler's mutex)      arm(channels, version); look into all rings;
//   (without)                         if nothing: sleep(deadline);
//   (with it)                         disarm(); look into all rings; judge_rings();
//
// Sleeps on futex words with futex_waitv while kMaxFutexWords suffice, the kernel has it and the
// policy allows it; else in epoll on the channels' sockets. Each arm() says in every channel's
// need_wakeup which one it is.
//
// A channel whose doorbell rings kMaxIdleRings times in a row without work is put on the slow list:
// nobody sleeps on it any more, the Scheduler looks into it every kSlowLookNs, and work takes it
// off.
//
// Thread safety: as above; wake() from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/futex.h"
#include "daemon/worker/channel.h"
#include "daemon/worker/event_fd.h"

namespace bucketd {

enum class WakeupPolicy : std::uint8_t { kAuto = 0, kFutex = 1, kSocket = 2 };

inline constexpr std::uint32_t kMaxIdleRings = 64;
inline constexpr std::uint64_t kSlowLookNs = 20'000'000;

class Doorbells {
 public:
  static Result<std::unique_ptr<Doorbells>> make(WakeupPolicy policy);

  // Announces the sleep in every channel, after a full fence. `version` differs whenever `channels`
  // do, and is not 0.
  void arm(std::span<const std::shared_ptr<RingChannel>> channels, std::uint64_t version);

  // Sleeps until a doorbell rang since arm(), wake() was called since arm(), or `deadline`; or for
  // no reason.
  void sleep(std::optional<std::chrono::steady_clock::time_point> deadline);

  // Takes the announcement back.
  void disarm();

  // Once the rings were looked into after disarm(): who rang for nothing?
  void judge_rings();

  // Takes over which channels there are; lets go of the others. Not while somebody sleeps.
  void refresh(std::span<const std::shared_ptr<RingChannel>> channels, std::uint64_t version);

  // Ends a sleep.
  void wake();

  // The `version` of the channels that are held; 0: none.
  std::uint64_t version() const { return version_; }
  std::size_t slow_count() const { return slow_count_; }
  // How the leader sleeps (slept last).
  Wakeup kind() const { return kind_.load(std::memory_order_relaxed); }

 private:
  struct Watched {
    std::shared_ptr<RingChannel> channel;
    std::uint32_t seen = 0;  // doorbell at arm()
    bool rang = false;
    bool is_slow = false;
    bool is_dead = false;  // epoll: the socket has ended
    bool is_in_epoll = false;
  };

  Doorbells(WakeupPolicy policy, UniqueFd epoll, EventFd event)
      : policy_(policy), epoll_(std::move(epoll)), event_(std::move(event)) {}
  void sleep_on_words(std::optional<std::chrono::steady_clock::time_point> deadline);
  void sleep_on_sockets(std::optional<std::chrono::steady_clock::time_point> deadline);
  // Whether requests of this channel were taken since the last call; if so, forgives its rings.
  static bool has_work(const Watched& watched);
  void credit_work(Watched& watched);
  void set_slow(Watched& watched, bool is_slow);
  // Puts the socket into the epoll set or takes it out, as kind and slow list want it.
  void update_epoll(Watched& watched);

  const WakeupPolicy policy_;
  const UniqueFd epoll_;
  const EventFd event_;
  std::atomic<std::uint32_t> internal_{0};  // our own futex word
  std::atomic<Wakeup> kind_{Wakeup::kNone};

  // Belong to the leader; guarded by the Scheduler's mutex when there is none.
  std::uint64_t version_ = 0;
  std::vector<Watched> watched_;
  std::uint32_t internal_seen_ = 0;
  std::size_t slow_count_ = 0;
};

}  // namespace bucketd
