// SessionTable: who has which session, where its state lies, and which worker knows it.
//
// A session belongs to a user and to a model. It is *bound* for a connection while that has it open
// and the model is on its worker; then the worker takes the connection's requests for it. It
// outlives its connection (until the idle time-out, or until it is evicted), its worker (bound
// again by the next incarnation, state untouched), and a reload of its model if the states are the
// same. A session whose request or operation was executing when its worker died is *torn*: its
// state may be half written, and it is not bound until it was reset or restored.
//
// A session of scope `session` is open by at most one connection; the one of scope `model` by every
// connection that has a lane of the model.
//
// For each connection (SessionBinding::State):
//
//            open           BindSession          Acknowledged
//   (none) -------> away ----------------> binding ----------> bound --+
//                    ^ ^                      | refused: (none)  |      | given up, closed, ended
//                    | +-- worker died -------+------------------+      v
//                    +------------------------------------- releasing: (none) when acknowledged
//
// advance() does what a session's situation allows; everything that changes one ends in it.
//
// Invariants: memory is released only when the worker has acknowledged that no request or operation
// uses it, or was reaped. Ids are 128 random bits and known to their owner only.
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
#include "daemon/supervisor/ended_sessions.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/session.h"
#include "daemon/supervisor/state_arenas.h"
#include "daemon/supervisor/user_accounts.h"

namespace bucketd::supervisor {

// Who asks.
struct SessionAsker {
  std::uint64_t connection_id = 0;
  uid_t uid = 0;
  bool is_admin = false;
};

class SessionTable {
 public:
  using Opened = SessionOpened;
  using Closed = std::function<void(Status)>;

  // Whether a user is refused on a model, for killing workers with it.
  using Refusal = std::function<Status(uid_t uid, const std::string& model)>;

  SessionTable(asio::io_context& context, const SessionsConfiguration& limits,
               UserAccounts& accounts, SlotLookup slot_of, Refusal refusal);

  // Each `opened` is called exactly once, perhaps from within the call; never when the connection
  // has ended.

  // A new session of `generation`, which is on its worker; its state is initialised.
  // FAILED_PRECONDITION when the model holds no state, or one of its own (scope `model`);
  // RESOURCE_EXHAUSTED; UNAVAILABLE when the worker died; or the worker's refusal.
  void open(const SessionAsker& asker, const GenerationPtr& generation, Opened opened);
  // An existing session, whose model is `model` (empty: whatever it is). The same offer again when
  // the connection has it already, once it is bound. NOT_FOUND for an id that is not the user's, or
  // why it ended; INVALID_ARGUMENT when it is of another model; FAILED_PRECONDITION when it is
  // torn, lost or in use; UNAVAILABLE when its model stays away.
  void resume(const SessionAsker& asker, const std::string& id, const std::string& model,
              Opened opened);
  // The session of a model of scope `model` for a connection that opens a lane; made if need be.
  // FAILED_PRECONDITION while it is torn, saying what mends it.
  void open_of_model(const SessionAsker& asker, const GenerationPtr& generation, Opened opened);
  // Gives it up: it stays, idle. `given_up` is called when no request of the connection uses it any
  // more. FAILED_PRECONDITION when the connection does not have it, or it is of scope `model`.
  void give_up(const SessionAsker& asker, const std::string& id, Closed given_up);
  // `closed` is called when its memory is free.
  void close(const SessionAsker& asker, const std::string& id, Closed closed);

  // session_operations.cc. Tasks of a session are done in order. FAILED_PRECONDITION when the
  // connection does not have it open (but see SessionTask::stays_idle), when it is torn (but for
  // kReset and kRestore), when it has no checkpoint (kRestore); see check_truncation() for
  // kTruncate; RESOURCE_EXHAUSTED (kCheckpoint, kFork); UNAVAILABLE when the worker died meanwhile.
  void operate(const SessionAsker& asker, const std::string& id, SessionTask task);
  struct StateRead {
    std::vector<std::byte> bytes;
    std::uint64_t total_bytes = 0;
  };
  Result<StateRead> read(const SessionAsker& asker, const std::string& id, std::uint32_t state,
                         std::uint64_t offset, std::uint64_t byte_count);

  void connection_ended(std::uint64_t connection_id);
  // Which of `executing` were bindings of sessions and operations on them that this worker had been
  // asked for, and the owners of those sessions.
  struct OperationAtDeath {
    uid_t uid = 0;
    ExecutingAtDeath operation;
  };
  std::vector<OperationAtDeath> operations_at_death(
      std::uint32_t worker, const std::vector<ExecutingAtDeath>& executing) const;
  // Sessions of requests named in `ends` become torn, and those that `operations` were changing;
  // all of the worker's are unbound.
  void worker_died(std::uint32_t worker, const std::vector<ChannelEnd>& ends,
                   const std::vector<OperationAtDeath>& operations);
  // Whether the worker is at something that it was asked to do to a session.
  bool has_work_for(std::uint32_t worker) const;
  // A generation of `model` was loaded, or unloaded. `serving`: what serves now, null if nothing
  // does: then its sessions end. `is_known`: whether a generation still exists.
  void model_changed(const std::string& model, const GenerationPtr& serving,
                     const std::function<bool(std::uint32_t)>& is_known);

  std::size_t count() const { return sessions_.size(); }
  // What the worker has written down of it.
  struct Activity {
    std::uint64_t requests = 0;  // that began to run, ever
    Clock::time_point used;      // last, by a request or otherwise
  };
  Activity activity_of(const Session& session) const;
  // Sessions that are not ending, by age.
  void for_each(const std::function<void(const Session&)>& visit) const;
  // Also: whether the asker may know its id.
  static bool may_operate(const SessionAsker& asker, const Session& session);

 private:
  Session* find(std::uint64_t handle);
  // Null when there is none that the asker may operate on.
  Session* find_by_id(const SessionAsker& asker, const std::string& id);
  Status no_session(const SessionAsker& asker, const std::string& id) const;
  static SessionOffer offer_of(const Session& session);
  // UNAVAILABLE when a worker is busy with too many sessions of this user.
  Status check_under_way(uid_t uid) const;
  Result<StateMemory> allocate(uid_t uid, std::uint32_t worker, std::uint64_t bytes);
  // Evicts what it may to make room; the charge that follows tells if that was not enough.
  void make_room(uid_t uid, std::uint64_t sessions, std::uint64_t bytes);
  Session& add(uid_t uid, const GenerationPtr& generation, std::vector<std::uint64_t> offsets,
               std::uint64_t state_bytes, StateMemory memory, Charge session_charge);
  Result<Session*> make(uid_t uid, const GenerationPtr& generation);
  static bool is_idle(const Session& session);

  // session_binding.cc
  void advance(std::uint64_t handle);
  // Whether the worker could bind it now.
  bool is_on_worker(const Session& session);
  // Whether requests that the worker has of connections that gave it up have to end first.
  static bool must_wait(const Session& session);
  // The connection has it open from now on; `opened` may be null.
  void want(Session& session, std::uint64_t connection_id, Opened opened);
  void bind(Session& session, std::uint64_t connection_id, bool initialise);
  void bound(std::uint64_t handle, std::uint64_t connection_id, std::uint32_t model_id,
             const link::Message* message);
  void release(Session& session, std::uint64_t connection_id);
  static void answer(SessionBinding& binding, const Result<SessionOffer>& result);
  // Who waits for it at a binding that the worker does not have hears so.
  static void released(SessionBinding& binding);
  // Nobody binds it: its owner is refused on its model.
  void refuse(Session& session, const std::vector<std::uint64_t>& connections,
              const Status& refused);
  // Takes it away: from workers, and then, when nothing of it is in use, out of the table.
  void end(Session& session, const Status& reason);
  void erase(std::uint64_t handle);
  void free(StateMemory& memory, const Session& session);
  void tear(Session& session, const std::string& during);
  void give_up_waiting(std::uint64_t handle, Clock::time_point now);

  // session_operations.cc
  void work(Session& session);
  static Status check_task(const Session& session, const SessionTask& task);
  Status prepare_copy(Session& session, const SessionTask& task);
  void ask_worker(Session& session, std::uint64_t connection_id);
  void worked(std::uint64_t handle, const link::Message* message);
  void finish_task(Session& session, const Status& status);
  void forked(Session& session, SessionTask& task);

  void schedule(Clock::time_point at);
  void look_at_time();

  const SessionsConfiguration& limits_;
  UserAccounts& accounts_;
  SlotLookup slot_of_;
  Refusal refusal_;
  StateArenas arenas_;
  EndedSessions ended_;
  std::map<std::uint64_t, Session> sessions_;     // by handle
  std::map<std::string, std::uint64_t> handles_;  // by id
  std::uint64_t next_handle_ = 1;
  asio::steady_timer timer_;
  Clock::time_point timer_at_ = Clock::time_point::max();
};

}  // namespace bucketd::supervisor
