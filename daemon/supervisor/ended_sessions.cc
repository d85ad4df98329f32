#include "daemon/supervisor/ended_sessions.h"

#include <algorithm>
#include <utility>

namespace bucketd::supervisor {

void EndedSessions::add(uid_t uid, const std::string& id, Status reason) {
  const auto found = by_user_.find(uid);
  if (found != by_user_.end() && found->second.size() >= kMaxEndedPerUser) {
    order_.erase(std::find(order_.begin(), order_.end(), uid));
    forget_one(uid);
  } else if (order_.size() >= kMaxEnded) {
    const uid_t oldest = order_.front();
    order_.pop_front();
    forget_one(oldest);
  }
  by_user_[uid].push_back({id, std::move(reason)});
  order_.push_back(uid);
}

void EndedSessions::forget_one(uid_t uid) {
  const auto found = by_user_.find(uid);
  found->second.pop_front();
  if (found->second.empty()) by_user_.erase(found);
}

Status EndedSessions::reason(uid_t uid, const std::string& id) const {
  if (const auto found = by_user_.find(uid); found != by_user_.end()) {
    for (const Ended& ended : found->second) {
      if (ended.id == id) return ended.reason;
    }
  }
  return Status(StatusCode::kNotFound, "this user has no session of that id");
}

}  // namespace bucketd::supervisor
