// Session: one set of a model's states with an id, and which connections have it bound.
//
// Plain data of the SessionTable.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/user_accounts.h"

namespace bucketd::supervisor {

struct SessionOffer {
  std::string id;  // 32 hexadecimal digits
  std::uint64_t handle = 0;
  std::string model;
  std::uint64_t state_bytes = 0;
};
using SessionOpened = std::function<void(Result<SessionOffer>)>;

// What the worker knows of a session for one connection.
struct SessionBinding {
  enum class State { kAway, kBinding, kBound, kReleasing };
  State state = State::kAway;
  bool is_wanted = true;  // else it goes as soon as the worker has released it
  // Who waits for it to be bound, each until then.
  std::vector<std::pair<Clock::time_point, SessionOpened>> waiting;
  // Who gave it up and waits until the worker has let go of it.
  std::vector<std::function<void(Status)>> giving_up;
};

// What is to be done to a session as a whole; one after the other.
struct SessionTask {
  enum class Kind { kReset, kTruncate, kCheckpoint, kRestore, kFork };
  Kind kind = Kind::kReset;
  std::uint64_t connection_id = 0;  // of the asker
  std::int64_t length = 0;
  std::int64_t current_length = -1;
  bool stays_idle = false;  // of a session that nobody has: it is not opened by it
  Clock::time_point begin_until;
  SessionOpened done;
};

// An arena and what it is charged with.
struct StateMemory {
  std::uint32_t arena_id = 0;
  Charge bytes;
};

struct Session {
  std::string id;
  std::uint64_t handle = 0;
  uid_t uid = 0;
  std::string model;
  GenerationPtr generation;
  bool is_of_model = false;  // scope `model`: never ends before its model
  bool is_shared = false;    // and is everybody's; `uid` is the daemon's own
  std::vector<StateSpec> states;
  std::vector<std::uint64_t> offsets;
  std::uint64_t state_bytes = 0;  // its SessionRecord lies behind them
  StateMemory memory;
  Charge session_charge;
  std::optional<StateMemory> checkpoint;

  std::map<std::uint64_t, SessionBinding> bindings;  // by connection
  bool is_initialised = false;
  std::optional<Status> torn;  // why it is not bound until it is reset or restored
  std::optional<Status> lost;  // why it can never be bound again
  // The generation that its worker knows no more, as it said; 0: none.
  std::uint32_t refused_model_id = 0;
  Clock::time_point created;
  Clock::time_point used;

  std::deque<SessionTask> tasks;
  bool is_working = false;              // the worker is at the first of them
  std::optional<StateMemory> incoming;  // that it copies to
  Charge incoming_session;              // kFork

  bool is_closing = false;
  std::vector<std::function<void(Status)>> closing;
};

// The connection id under which the supervisor itself has a session bound, to mend one that no
// client may use meanwhile. Clients' begin with 1.
inline constexpr std::uint64_t kOwnConnection = 0;

}  // namespace bucketd::supervisor
