// EndedSessions: what became of sessions that are no more, for their owners only.
//
// The last kMaxEnded of the daemon, at most kMaxEndedPerUser of one user; an older one is unknown.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <map>
#include <string>

#include "bucketd/status.h"

namespace bucketd::supervisor {

class EndedSessions {
 public:
  static constexpr std::size_t kMaxEnded = 1024;
  static constexpr std::size_t kMaxEndedPerUser = 64;

  // `reason`: the answer to whoever of `uid` asks for it.
  void add(uid_t uid, const std::string& id, Status reason);
  // NOT_FOUND with one and the same text when this user never had such a session, or it ended long
  // ago.
  Status reason(uid_t uid, const std::string& id) const;
  std::size_t count() const { return order_.size(); }

 private:
  struct Ended {
    std::string id;
    Status reason;
  };
  // The oldest of the user's is forgotten.
  void forget_one(uid_t uid);

  std::map<uid_t, std::deque<Ended>> by_user_;  // oldest first
  std::deque<uid_t> order_;                     // whose ended, oldest first
};

}  // namespace bucketd::supervisor
