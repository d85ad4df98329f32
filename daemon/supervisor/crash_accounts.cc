#include "daemon/supervisor/crash_accounts.h"

#include <algorithm>
#include <cassert>

namespace bucketd::supervisor {

void CrashAccounts::expire(std::deque<Death>& deaths, Clock::time_point now) const {
  while (!deaths.empty() && now - deaths.front().when >= limits_.deaths_window) deaths.pop_front();
}

void CrashAccounts::charge(uid_t uid, const std::string& model, std::uint32_t executing,
                           Clock::time_point now) {
  assert(executing >= 1);
  // Rounded up, so that shares of one death never add up to less.
  const std::uint64_t share = (kWholeDeath + executing - 1) / executing;
  // Expired accounts of users who went away are found here: deaths are rare.
  for (auto account = accounts_.begin(); account != accounts_.end();) {
    expire(account->second, now);
    account = account->second.empty() ? accounts_.erase(account) : std::next(account);
  }
  accounts_[{model, uid}].push_back({now, share});
}

Status CrashAccounts::check(uid_t uid, const std::string& model, Clock::time_point now) {
  const auto account = accounts_.find({model, uid});
  if (account == accounts_.end()) return Status();
  expire(account->second, now);
  if (account->second.empty()) {
    accounts_.erase(account);
    return Status();
  }
  std::uint64_t total = 0;
  for (const Death& death : account->second) total += death.share;
  if (total < limits_.deaths_per_client * kWholeDeath) return Status();
  // The oldest deaths leave the window first: refused until enough of them have.
  Clock::time_point until = now;
  for (const Death& death : account->second) {
    until = death.when + limits_.deaths_window;
    total -= death.share;
    if (total < limits_.deaths_per_client * kWholeDeath) break;
  }
  const auto wait_s = std::chrono::ceil<std::chrono::seconds>(until - now).count();
  return Status(StatusCode::kPermissionDenied,
                "model '" + model + "' is refused to this user: its requests killed a worker " +
                    std::to_string(account->second.size()) + " times within " +
                    std::to_string(limits_.deaths_window.count()) + " s, the limit is " +
                    std::to_string(limits_.deaths_per_client) + "; it may be used again in " +
                    std::to_string(wait_s) +
                    " s, or after an administrator has loaded the model again");
}

void CrashAccounts::forget(const std::string& model) {
  std::erase_if(accounts_, [&](const auto& account) { return account.first.first == model; });
}

}  // namespace bucketd::supervisor
