// Scheduler: takes requests out of the rings and gives them to executors: who runs what, who
// sleeps on what, what ends when. README.md, "Leader and followers".
//
// Thread safety: every method may be called from any thread. One mutex; nothing waits, copies
// payload or calls a backend while it is held.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/channel_layout.h"
#include "common/spin_budget.h"
#include "daemon/worker/channel.h"
#include "daemon/worker/doorbells.h"
#include "daemon/worker/lane.h"
#include "daemon/worker/request_queue.h"
#include "daemon/worker/session.h"
#include "daemon/worker/session_operation.h"
#include "daemon/worker/status_page.h"

namespace bucketd {

// An executor that starts a request expected to take this long or longer rouses another one to
// watch the doorbells: a few times what it takes to wake a thread on another core.
inline constexpr std::uint64_t kHandOverNs = 100'000;

// While shorter ones run and nobody watches, one idle executor, the deputy, looks this often
// whether one of them has turned out to be long, and then watches.
inline constexpr std::uint64_t kDeputyLookNs = 4'000'000;

// The leader stays awake for this part of the execution before, if that is more than
// Options::spin_us and up to a bound: twice the time in which a halted virtual CPU wakes up and
// answers.
inline constexpr std::uint64_t kStayAwakePart = 16;
inline constexpr std::uint64_t kLongestStayAwakeNs = 250'000;

// How often the control thread looks for deadlines that have passed while no executor can, and how
// long it goes on after the last request during which none could: it is not told anew of each.
inline constexpr std::uint64_t kDeadlineLookNs = 100'000'000;

// One request or operation, as its executor holds it.
struct Job {
  std::shared_ptr<Lane> lane;                   // null: an operation
  std::shared_ptr<SessionOperation> operation;  // null: a request
  std::shared_ptr<Session> session;             // null: none was named, or it was not found
  SubmissionEntry entry{};
  std::uint64_t taken_ns = 0;
  bool is_unled = false;  // expected to be short: nobody was roused to watch meanwhile
};

class Scheduler {
 public:
  struct Options {
    WakeupPolicy policy = WakeupPolicy::kAuto;
    std::uint32_t spin_us = 0;  // how long at most the leader looks into the rings before it sleeps
  };
  // The client of this channel broke the protocol. Called with the mutex held.
  using ViolationSink = std::function<void(std::uint64_t channel_id, const std::string& reason)>;

  // `control` is notified when a closing lane, a drain or a deadline needs the control thread;
  // requests that no executor answers are counted on `status`. Both outlive the scheduler.
  static Result<std::unique_ptr<Scheduler>> make(const Options& options, const EventFd& control,
                                                 const StatusPage& status,
                                                 ViolationSink on_violation);
  // The executors have ended.
  ~Scheduler();

  // --- executors ---

  // The next request to run; waits for it. False when the scheduler was stopped.
  bool next(Job& job);
  // Gives back a job that was answered.
  void finish(Job& job);

  // --- stream thread ---

  // Queues a request whose slot is free, or answers it if its lane takes nothing more.
  void submit(Lane& lane, const SubmissionEntry& entry);
  // The client of a stream broke the protocol: its queue is dropped, the sink is told.
  void report_violation(Channel& channel, const std::string& reason);

  // --- control thread ---

  void add_ring_channel(std::shared_ptr<RingChannel> channel);
  void add_stream_channel(std::shared_ptr<Channel> channel);
  // Null if there is none.
  std::shared_ptr<Channel> find_channel(std::uint64_t channel_id) const;

  // Adds a lane to its channel. False if the channel is gone or has a lane of this id.
  bool add_lane(std::shared_ptr<Lane> lane);
  // Channels and lanes that are open.
  std::size_t open_count() const;
  std::shared_ptr<Lane> find_lane(std::uint64_t channel_id, std::uint32_t lane_id) const;

  // Takes a lane out. Requests that are queued are answered CANCELLED; one that runs ends in
  // memory that the job holds.
  void close_lane(Lane& lane);
  // The same for a channel and all its lanes, without answers: its client is gone.
  void close_channel(std::uint64_t channel_id);

  // First half of an unload: what was submitted by now is taken, nothing more. Returns the model's
  // lanes.
  std::vector<std::shared_ptr<Lane>> begin_unload(const LoadedModel& model);
  // Second half: takes the lane out if nothing of it is in flight any more: what is in its ring is
  // answered UNAVAILABLE.
  bool retire_if_idle(Lane& lane);

  // Binds a session for a connection; `gone` comes when nothing of the connection uses it any more.
  // False if the connection has a session of this handle.
  bool add_session(std::uint64_t connection_id, std::shared_ptr<Session> session, GoneNotice gone);
  // The session that some connection has bound by this handle. Null if there is none.
  std::shared_ptr<Session> find_shared_session(std::uint64_t handle) const;
  // The connection's own. Null if there is none.
  std::shared_ptr<Session> find_session(std::uint64_t connection_id, std::uint64_t handle) const;
  // Takes out the sessions of a model; what is queued of them still runs.
  void remove_sessions_of(const LoadedModel& model);
  // Takes out the connection's hold of a session; what is queued of it there is answered CANCELLED.
  // The flag is set when nothing of it runs any more; null if there is no such session.
  GoneNotice::Flag remove_session(std::uint64_t connection_id, std::uint64_t handle);

  // Queues an operation after what its connection's rings hold of the session by now. It is
  // answered CANCELLED if the connection no longer has the session, UNAVAILABLE after drain(). Also
  // from the stream thread.
  void operate(const std::shared_ptr<SessionOperation>& operation);

  // Takes what was submitted by now, and nothing more.
  void drain();
  // Nothing is queued or being executed.
  bool is_idle() const;

  // Answers queued requests whose deadline has passed, if no executor can. Returns when it wants to
  // be called again at the latest (CLOCK_MONOTONIC), or nothing if it will notify `control`.
  std::optional<std::uint64_t> expire_deadlines();

  // Makes next() return false in every executor.
  void stop();

  // --- for tests and reports ---
  std::size_t follower_count() const;
  bool has_sleeping_leader() const;
  Wakeup wakeup_kind() const { return doorbells_->kind(); }
  std::size_t slow_channel_count() const;

 private:
  struct SessionKey {
    std::uint64_t connection_id = 0;
    std::uint64_t handle = 0;
    friend bool operator==(const SessionKey&, const SessionKey&) = default;
  };
  struct SessionKeyHash {
    std::size_t operator()(const SessionKey& key) const {
      return std::hash<std::uint64_t>()(key.connection_id * 0x9E3779B97F4A7C15u ^ key.handle);
    }
  };

  // Whom to wake, decided with the mutex held and done without it.
  struct Rousing {
    bool follower = false;
    bool leader = false;
    bool control = false;
  };

  Scheduler(const Options& options, const EventFd& control, const StatusPage& status,
            ViolationSink on_violation, std::unique_ptr<Doorbells> doorbells);

  // All of these: with the mutex held.
  void look_into_rings();
  void look_into_all_rings();  // however many there are
  void look_into_lanes(RingChannel& channel, std::uint64_t& now_ns);
  bool look_into(Channel& channel, RingLane& lane, std::uint64_t& now_ns);
  void enqueue(Lane& lane, const SubmissionEntry& entry, std::uint64_t now_ns);
  void violation(Channel& channel, const std::string& reason);
  bool pick(Job& job);
  Rousing before_running(Job& job);
  Rousing for_new_work();
  bool watch_deadlines();
  void lead(std::unique_lock<std::mutex>& lock);
  bool follow(std::unique_lock<std::mutex>& lock);
  bool spin(std::unique_lock<std::mutex>& lock);
  void channels_changed();
  // Takes queued requests that `wanted` says out of the queue.
  using Wanted = std::function<bool(const QueuedRequest&)>;
  std::vector<Job> take_out(Lane& lane, const Wanted& wanted);
  std::vector<Job> take_out_all(Lane& lane);
  void drop_all(Channel& channel);
  Job make_job(QueuedRequest& request);
  void account_end(Lane& lane);
  void account_end(SessionOperation& operation);
  std::vector<std::shared_ptr<SessionOperation>> take_out_operations(std::uint64_t connection_id,
                                                                     const Session& session);
  void forget(Session& session);
  void look_into_rings_of(std::uint64_t connection_id);
  std::shared_ptr<ClientQueue> queue_of_connection(std::uint64_t connection_id);
  void remove_lane(Lane& lane);

  void join_connection(Channel& channel);
  bool has_idle_executor() const { return has_leader_ || followers_ > 0; }

  // Without it.
  void rouse(const Rousing& rousing);
  void answer_all(std::vector<Job>& jobs, const Status& status);

  const Options options_;
  const EventFd& control_;
  const StatusPage& status_;
  const ViolationSink on_violation_;
  const std::unique_ptr<Doorbells> doorbells_;  // see its own rules

  mutable std::mutex mutex_;
  std::condition_variable follower_woken_;
  // Guarded by mutex_.
  std::unordered_map<std::uint64_t, std::shared_ptr<Channel>> channels_;
  std::vector<std::shared_ptr<RingChannel>> ring_channels_;
  std::uint64_t channels_version_ = 1;
  std::unordered_map<std::uint64_t, std::weak_ptr<ClientQueue>> connections_;
  struct BoundSession {
    std::shared_ptr<Session> session;  // keeps its SessionBinding alive
    GoneNotice::Flag gone;             // of that
  };
  std::unordered_map<SessionKey, BoundSession, SessionKeyHash> sessions_;
  std::unordered_map<std::uint64_t, std::weak_ptr<Session>> sessions_by_handle_;
  std::vector<std::shared_ptr<SessionOperation>> operations_;  // queued or being run
  RequestQueue queue_;
  std::size_t in_flight_ = 0;             // queued or being executed
  std::size_t queued_deadlines_ = 0;      // queued requests that have one
  std::size_t followers_ = 0;             // waiting on follower_woken_
  bool has_leader_ = false;               // somebody sleeps on the doorbells, or is about to
  bool is_asleep_ = false;                // the leader has armed and found nothing
  bool wants_leader_ = false;             // a long request began, and nobody watches yet
  bool has_deputy_ = false;               // a follower looks after unled runs
  std::size_t unled_running_ = 0;         // jobs with is_unled
  std::uint64_t unled_started_ = 0;       // of them, ever
  std::uint64_t unled_looked_after_ = 0;  // `unled_started_` when a deputy last began its watch
  bool is_draining_ = false;
  bool is_stopping_ = false;
  bool control_watches_deadlines_ = false;
  bool ran_unwatched_ = false;  // since the control thread looked: a request with nobody idle
  std::uint32_t looks_skipped_ = 0;
  SpinBudget spin_budget_;
  std::uint64_t recent_execution_ns_ = 0;  // what requests like the last one usually take
  std::uint32_t client_cpu_ = 0;  // ClientPage::cpu of the channel that was taken from last
};

}  // namespace bucketd
