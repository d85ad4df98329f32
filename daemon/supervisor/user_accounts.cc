#include "daemon/supervisor/user_accounts.h"

#include <algorithm>
#include <cassert>
#include <string>

namespace bucketd::supervisor {
namespace {

struct ResourceText {
  const char* what;
  const char* limit;
};
constexpr ResourceText kTexts[kResourceCount] = {
    {"connections", "limits.max_connections_per_user"},
    {"bytes of shared memory", "limits.max_shared_bytes_per_user"},
    {"sessions", "limits.max_sessions_per_user"},
};

}  // namespace

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  accounts_ = std::exchange(other.accounts_, nullptr);
  uid_ = other.uid_;
  resource_ = other.resource_;
  amount_ = std::exchange(other.amount_, 0);
  return *this;
}

void Charge::give_back() {
  if (accounts_ != nullptr) accounts_->give_back(uid_, resource_, amount_);
  accounts_ = nullptr;
  amount_ = 0;
}

UserAccounts::UserAccounts(const LimitsConfiguration& limits)
    : limits_{limits.max_connections_per_user, limits.max_shared_bytes_per_user,
              limits.max_sessions_per_user} {}

UserAccounts::~UserAccounts() { assert(accounts_.empty()); }

Result<Charge> UserAccounts::charge(uid_t uid, Resource resource, std::uint64_t amount) {
  const auto index = static_cast<std::size_t>(resource);
  const std::uint64_t limit = limits_[index];
  const std::uint64_t before = held(uid, resource);
  if (amount > limit || before > limit - amount) {
    return error(StatusCode::kResourceExhausted,
                 "this user would hold " + std::to_string(before) + " + " + std::to_string(amount) +
                     " " + kTexts[index].what + "; the limit '" + kTexts[index].limit + "' is " +
                     std::to_string(limit));
  }
  accounts_[uid][index] += amount;
  return Charge(this, uid, resource, amount);
}

std::uint64_t UserAccounts::held(uid_t uid, Resource resource) const {
  const auto found = accounts_.find(uid);
  return found == accounts_.end() ? 0 : found->second[static_cast<std::size_t>(resource)];
}

void UserAccounts::give_back(uid_t uid, Resource resource, std::uint64_t amount) {
  const auto found = accounts_.find(uid);
  assert(found != accounts_.end());
  Held& held = found->second;
  assert(held[static_cast<std::size_t>(resource)] >= amount);
  held[static_cast<std::size_t>(resource)] -= amount;
  if (std::all_of(held.begin(), held.end(), [](std::uint64_t value) { return value == 0; })) {
    accounts_.erase(found);
  }
}

}  // namespace bucketd::supervisor
