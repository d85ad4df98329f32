// ClientState: what all copies of a Client share.
//
// It has a control connection when it needs one: connection() makes the next after the daemon, or a
// fork, ended the last.
//
// Thread safety: all methods from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "bucketd/client.h"
#include "libclient/control_connection.h"
#include "libclient/fork_awareness.h"
#include "libclient/lane.h"
#include "libclient/poll_set.h"

namespace bucketd::internal {

using TimePoint = std::chrono::steady_clock::time_point;

// What an answer may take beyond the time that the daemon was asked to wait.
inline constexpr std::chrono::milliseconds kAnswerTime{2000};

// From now to `deadline`, at least 0.
std::uint32_t milliseconds_until(TimePoint deadline);

class ClientState : public std::enable_shared_from_this<ClientState> {
 public:
  explicit ClientState(const ClientOptions& options);
  ~ClientState();

  const ClientOptions& options() const { return options_; }
  // For a call without a deadline of its own.
  TimePoint default_deadline() const;

  // The living connection, or a new one; tries until `deadline`, at least once.
  Result<std::shared_ptr<ControlConnection>> connection(TimePoint deadline);

  // Asks on a living connection; asks again on the next one when it ends meanwhile: for requests
  // that change nothing.
  Result<Answer> ask(const ControlConnection::Compose& compose, wire::Body expected,
                     TimePoint deadline);

  // Opens a lane to the model, waiting for model, worker and daemon until `deadline`.
  Result<std::shared_ptr<Lane>> open_lane(const std::string& model, TimePoint deadline);
  // The handle of that name that exists, or a new one. `lane` is its first.
  std::shared_ptr<ModelLane> model_lane(const std::string& model, std::shared_ptr<Lane> lane);
  std::shared_ptr<ModelLane> find_model_lane(const std::string& model);

  // Sessions that handles of this process refer to. False if it is one of them already.
  bool enter_session(const std::string& id);
  void leave_session(const std::string& id);

  int poll_fd();
  void dispatch();

 private:
  // What a forked child does not share with its parent.
  struct ProcessState {
    std::mutex mutex;
    std::condition_variable changed;
    // Guarded by mutex:
    bool is_connecting = false;
    std::shared_ptr<ControlConnection> connection;
    std::map<std::string, std::weak_ptr<ModelLane>> models;
    std::set<std::string> sessions;
    std::shared_ptr<PollSet> poll_set;
  };

  Result<std::shared_ptr<ControlConnection>> connect(TimePoint deadline);
  std::shared_ptr<PollSet> poll_set_locked(ProcessState& process);
  Result<std::shared_ptr<Lane>> make_lane(Answer answer,
                                          const std::shared_ptr<ControlConnection>& connection);

  const ClientOptions options_;
  const ConnectionOptions connection_options_;
  ForkLocal<ProcessState> process_;
  // The number that poll_fd() gave, which children inherit; -1: not asked for yet.
  std::atomic<int> poll_number_{-1};
};

}  // namespace bucketd::internal
