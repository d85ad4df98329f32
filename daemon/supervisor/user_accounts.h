// UserAccounts: what each user holds of the daemon's, and the limits on it.
//
//   Result<Charge> charge = accounts.charge(uid, Resource::kSharedBytes, bytes);
//   if (!charge) return error(charge.error());
//
// A Charge is given back by its destructor; an account that holds nothing is gone. The accounts
// must outlive all charges.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "bucketd/status.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

enum class Resource : std::size_t {
  kConnections = 0,
  kSharedBytes = 1,
  kSessions = 2,
  kStateBytes = 3
};
inline constexpr std::size_t kResourceCount = 4;

class UserAccounts;

class Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept { *this = std::move(other); }
  Charge& operator=(Charge&& other) noexcept;
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  ~Charge() { give_back(); }

  void give_back();
  std::uint64_t amount() const { return amount_; }

 private:
  friend class UserAccounts;
  Charge(UserAccounts* accounts, uid_t uid, Resource resource, std::uint64_t amount)
      : accounts_(accounts), uid_(uid), resource_(resource), amount_(amount) {}

  UserAccounts* accounts_ = nullptr;
  uid_t uid_ = 0;
  Resource resource_ = Resource::kConnections;
  std::uint64_t amount_ = 0;
};

class UserAccounts {
 public:
  UserAccounts(const LimitsConfiguration& limits, const SessionsConfiguration& sessions);
  // Asserts that everything was given back.
  ~UserAccounts();
  UserAccounts(const UserAccounts&) = delete;
  UserAccounts& operator=(const UserAccounts&) = delete;

  // What is missing for `amount` more: of the user's limit, or else of the limit of all users
  // together. Nothing if there is room.
  struct Shortage {
    bool is_total = false;
    std::uint64_t missing = 0;
  };
  std::optional<Shortage> shortage(uid_t uid, Resource resource, std::uint64_t amount) const;
  // RESOURCE_EXHAUSTED, naming the limit, when it would be exceeded.
  Result<Charge> charge(uid_t uid, Resource resource, std::uint64_t amount);
  std::uint64_t held(uid_t uid, Resource resource) const;
  // Users that hold something.
  std::size_t user_count() const { return accounts_.size(); }

 private:
  friend class Charge;
  using Held = std::array<std::uint64_t, kResourceCount>;
  void give_back(uid_t uid, Resource resource, std::uint64_t amount);

  const Held limits_;
  const Held total_limits_;
  Held totals_{};
  std::map<uid_t, Held> accounts_;
};

}  // namespace bucketd::supervisor
