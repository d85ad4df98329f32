// SessionState: what copies of a Session share: an id, and the handle under which the worker of the
// lane that is open now knows the session.
//
// A handle is good for one lane. With the next lane (the worker was restarted, or the connection
// made anew) the session is opened again by its id before its next request, so that the caller
// hears from the supervisor what became of it: it goes on, is torn, was evicted, is gone. The
// worker itself knows only that it has no such session; an answer that says so makes us ask, too.
//
// A session belongs to the process that opened it: its connection has it. A forked child may only
// destroy its copy.
//
// Lifetime: of the Session handles. Requests refer to it weakly. Its end closes the session, unless
// another connection may have it by now.
//
// Thread safety: all methods from any thread. The mutex is held for moments only, before the
// ClientState's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/session.h"
#include "control_generated.h"
#include "libclient/client_state.h"
#include "libclient/control_connection.h"
#include "libclient/lane.h"
#include "libclient/model_lane.h"

namespace bucketd::internal {

class SessionState : public std::enable_shared_from_this<SessionState> {
 public:
  // A new session of `model`, or, with an `id`, that one. Errors: as Model::open_session().
  static Result<std::shared_ptr<SessionState>> open(std::shared_ptr<ModelLane> model,
                                                    const std::string& id, TimePoint deadline);
  ~SessionState();
  SessionState(const SessionState&) = delete;
  SessionState& operator=(const SessionState&) = delete;

  // To a request whose Session was destroyed before it was submitted.
  static Status handle_is_gone();

  const std::string& id() const { return id_; }
  std::uint64_t state_bytes() const { return state_bytes_; }
  ModelLane& model() const { return *model_; }
  TimePoint default_deadline() const { return model_->client().default_deadline(); }

  // What requests on `lane` are to name. Asks the supervisor when the lane is another one than
  // before, which may take until `deadline`; else neither asks nor allocates.
  Result<std::uint64_t> handle_on(Lane& lane, TimePoint deadline);
  // What a request under `handle` failed with, whose worker knew no such session: the supervisor's
  // reason; UNAVAILABLE if the session lives and the request may be sent again.
  Status explain(const Status& told, std::uint64_t handle);

  // See Session.
  Status operate(wire::SessionOperation operation, std::int64_t length, std::int64_t current_length,
                 TimePoint deadline);
  Result<std::shared_ptr<SessionState>> fork(TimePoint deadline);
  Result<std::vector<std::byte>> read_state(std::size_t state, TimePoint deadline);
  Status end(bool keep_state, TimePoint deadline);

 private:
  // Whether a session that the supervisor calls torn will do.
  enum class Torn { kRefused, kAllowed };

  SessionState(std::shared_ptr<ModelLane> model, std::string id, std::uint64_t state_bytes,
               std::uint64_t daemon_incarnation);
  // `opened` came on the connection of `lane`. FAILED_PRECONDITION when this process has a Session
  // of that id.
  static Result<std::shared_ptr<SessionState>> make(std::shared_ptr<ModelLane> model, Lane& lane,
                                                    const wire::SessionOpened& opened);

  std::string text() const;  // "session 0123... of model 'm'"
  // Why this handle can do nothing any more: another process's, closed, given up.
  Status check_usable() const;
  // Opens it again, for `lane`.
  Result<std::uint64_t> bind(Lane& lane, TimePoint deadline);
  Result<std::uint64_t> bound(Lane& lane, const wire::SessionOpened& opened);
  // Makes the connection, which is the client's now, the one that has the session.
  Status come_along(const ControlConnection& connection, TimePoint deadline);
  // The lane that is open, the session on it, and its requests over.
  Result<std::shared_ptr<Lane>> settle(Torn torn, TimePoint deadline);
  // Asks on the connection of the settled lane; again while the daemon says UNAVAILABLE: it was not
  // done, or left the session torn, which settling then hears. `lane` gets the lane.
  Result<Answer> ask_in_order(const ControlConnection::Compose& compose, wire::Body expected,
                              Torn torn, LateSession late, TimePoint deadline,
                              std::shared_ptr<Lane>& lane);
  void leave();

  const std::shared_ptr<ModelLane> model_;
  const std::string id_;
  const std::uint64_t state_bytes_;
  const std::uint64_t daemon_incarnation_;
  const std::uint64_t generation_;  // of forks

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::uint64_t lane_serial_ = 0;  // what handle_ is good for; 0: nothing
  std::uint64_t handle_ = 0;
  std::weak_ptr<ControlConnection> connection_;  // that has the session
  std::optional<Status> ended_;                  // closed or given up, from here
};

}  // namespace bucketd::internal
