// CrashAccounts: how often each user's requests killed a worker, by model; and who is refused for
// it.
//
// A death is charged in shares of one: all of it to the request that is known to have done it, or
// equal parts when several were executing and none is known.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>

#include "bucketd/status.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

class CrashAccounts {
 public:
  explicit CrashAccounts(const CrashConfiguration& limits) : limits_(limits) {}

  // Charges 1/`executing` of a death to `uid` on `model`. `executing` >= 1.
  void charge(uid_t uid, const std::string& model, std::uint32_t executing, Clock::time_point now);

  // PERMISSION_DENIED, with model, count and when it ends, if `uid` is refused on `model` now.
  Status check(uid_t uid, const std::string& model, Clock::time_point now);

  // Forgets all deaths on `model`: it was loaded anew, or unloaded.
  void forget(const std::string& model);

  // Accounts that hold a death still in the window.
  std::size_t size() const { return accounts_.size(); }

 private:
  // Divisible by the numbers of executors that are usual.
  static constexpr std::uint64_t kWholeDeath = 720720;
  struct Death {
    Clock::time_point when;
    std::uint64_t share = 0;  // of kWholeDeath
  };
  using Key = std::pair<std::string, uid_t>;

  void expire(std::deque<Death>& deaths, Clock::time_point now) const;

  CrashConfiguration limits_;
  std::map<Key, std::deque<Death>> accounts_;
};

}  // namespace bucketd::supervisor
