#include "daemon/supervisor/user_accounts.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <string>

namespace bucketd::supervisor {
namespace {

struct ResourceText {
  const char* what;
  const char* limit;
  const char* total_limit;
};
constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr ResourceText kTexts[kResourceCount] = {
    {"connections", "limits.max_connections_per_user", ""},
    {"bytes of shared memory", "limits.max_shared_bytes_per_user", ""},
    {"sessions", "sessions.per_user", "sessions.total"},
    {"bytes of state", "sessions.bytes_per_user", "sessions.bytes_total"},
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

UserAccounts::UserAccounts(const LimitsConfiguration& limits, const SessionsConfiguration& sessions)
    : limits_{limits.max_connections_per_user, limits.max_shared_bytes_per_user, sessions.per_user,
              sessions.bytes_per_user},
      total_limits_{kUnlimited, kUnlimited, sessions.total, sessions.bytes_total} {}

UserAccounts::~UserAccounts() { assert(accounts_.empty()); }

std::optional<UserAccounts::Shortage> UserAccounts::shortage(uid_t uid, Resource resource,
                                                             std::uint64_t amount) const {
  const auto index = static_cast<std::size_t>(resource);
  const auto missing = [amount](std::uint64_t before, std::uint64_t limit) -> std::uint64_t {
    std::uint64_t after = 0;
    if (__builtin_add_overflow(before, amount, &after)) return kUnlimited;
    return after > limit ? after - limit : 0;
  };
  if (const std::uint64_t own = missing(held(uid, resource), limits_[index]); own != 0) {
    return Shortage{false, own};
  }
  if (const std::uint64_t all = missing(totals_[index], total_limits_[index]); all != 0) {
    return Shortage{true, all};
  }
  return std::nullopt;
}

Result<Charge> UserAccounts::charge(uid_t uid, Resource resource, std::uint64_t amount) {
  const auto index = static_cast<std::size_t>(resource);
  const ResourceText& text = kTexts[index];
  if (const std::optional<Shortage> short_of = shortage(uid, resource, amount)) {
    // What others hold is nobody's business.
    return error(StatusCode::kResourceExhausted,
                 short_of->is_total
                     ? "all users together would hold more " + std::string(text.what) +
                           " than the limit '" + text.total_limit + "', " +
                           std::to_string(total_limits_[index])
                     : "this user would hold " + std::to_string(held(uid, resource)) + " + " +
                           std::to_string(amount) + " " + text.what + "; the limit '" + text.limit +
                           "' is " + std::to_string(limits_[index]));
  }
  accounts_[uid][index] += amount;
  totals_[index] += amount;
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
  totals_[static_cast<std::size_t>(resource)] -= amount;
  if (std::all_of(held.begin(), held.end(), [](std::uint64_t value) { return value == 0; })) {
    accounts_.erase(found);
  }
}

}  // namespace bucketd::supervisor
