// SessionTable: who has which session, where its state lies, and which worker knows it.
//
// A session belongs to a user and to a model. It is *bound* while a connection of that user has it
// and the model is on its worker; then the worker takes requests for it. It outlives its connection
// (until its idle limit), its worker (bound again by the next incarnation, state untouched), and a
// reload of its model if the states are the same. A session whose request was executing when its
// worker died is *torn*: its state may be half written, so it is never bound again.
//
//            open                 connection_ended          idle limit, close
//   (none) -------> bound ------------------------> unbound -----------------> (none)
//                   ^   |    worker_died, reload       |
//                   +---+------------------------------+--> lost (torn, or replaced) --close-->
//                   (none)
//                        resume, model_changed
//
// Invariants: memory of a session is released only when its worker has acknowledged that no request
// uses it, or was reaped. Ids are 128 random bits and found by their owner only.
//
// Owned by the Supervisor. Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/channel_broker.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/state_arenas.h"
#include "daemon/supervisor/user_accounts.h"

namespace bucketd::supervisor {

struct SessionOffer {
  std::string id;  // 32 hexadecimal digits
  std::uint64_t handle = 0;
};

class SessionTable {
 public:
  using Opened = std::function<void(Result<SessionOffer>)>;
  using Closed = std::function<void(Status)>;

  SessionTable(asio::io_context& context, const LimitsConfiguration& limits, UserAccounts& accounts,
               SlotLookup slot_of);

  // A new session of `generation`, which is on its worker; its state is initialised. `opened` is
  // called exactly once: FAILED_PRECONDITION when the model holds no state, RESOURCE_EXHAUSTED,
  // UNAVAILABLE when the worker died, or the worker's refusal.
  void open(std::uint64_t connection_id, uid_t uid, const GenerationPtr& generation, Opened opened);
  // An existing session for another connection of its owner. NOT_FOUND also for another user's;
  // FAILED_PRECONDITION when it is torn, lost or in use; UNAVAILABLE when its model is away.
  void resume(std::uint64_t connection_id, uid_t uid, const std::string& id,
              const std::string& model, Opened opened);
  // `closed` is called when its memory is free. NOT_FOUND also for another user's.
  void close(uid_t uid, const std::string& id, Closed closed);

  void connection_ended(std::uint64_t connection_id);
  // Sessions named in `ends` become torn; all of the worker's are unbound.
  void worker_died(std::uint32_t worker, const std::vector<ChannelEnd>& ends);
  // A generation of `model` was loaded, or unloaded. `serving`: what serves now, null if nothing
  // does: then its sessions end. `is_known`: whether a generation still exists.
  void model_changed(const std::string& model, const GenerationPtr& serving,
                     const std::function<bool(std::uint32_t)>& is_known);

  std::size_t count() const { return sessions_.size(); }

 private:
  enum class State { kUnbound, kBinding, kBound, kReleasing };
  struct Session {
    std::string id;
    std::uint64_t handle = 0;
    uid_t uid = 0;
    std::string model;
    GenerationPtr generation;
    std::vector<StateSpec> states;
    std::vector<std::uint64_t> offsets;
    std::uint32_t arena_id = 0;
    State state = State::kUnbound;
    std::uint64_t connection_id = 0;        // 0: nobody has it
    std::uint64_t bound_connection_id = 0;  // under which the worker knows it
    bool is_initialised = false;
    std::optional<Status> lost;  // why it can never be bound again
    Clock::time_point idle_since;
    Opened opened;  // while it is being bound for a request
    std::vector<Closed> closing;
    bool is_closing = false;
    Charge session_charge;
    Charge byte_charge;
  };

  Session* find(std::uint64_t handle);
  // UNAVAILABLE when a worker is busy with too many sessions of this user.
  Status check_under_way(uid_t uid) const;
  Session* find_owned(uid_t uid, const std::string& id);
  void bind(Session& session);
  void bound(std::uint64_t handle, const link::Message* message);
  // Takes it away from the worker, and then, if it is closing, out of the table.
  void unbind(Session& session);
  void erase(std::uint64_t handle);
  void schedule_expiry();
  void expire();

  const LimitsConfiguration& limits_;
  UserAccounts& accounts_;
  SlotLookup slot_of_;
  StateArenas arenas_;
  std::map<std::uint64_t, Session> sessions_;  // by handle
  std::uint64_t next_handle_ = 1;
  asio::steady_timer expiry_timer_;
  bool is_expiry_scheduled_ = false;
};

}  // namespace bucketd::supervisor
