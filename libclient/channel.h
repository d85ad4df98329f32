// Channel: where the completions of some lanes arrive, and how this process's threads wait for
// them. RingChannel and StreamChannel are the two transports.
//
// The library has no thread of its own. Whoever waits takes completions out of the transport, for
// everybody (collect). Of several waiting threads one is the *leader*: it alone sleeps in the
// transport (a futex, or poll); the others sleep on a condition each. A collector wakes exactly
// those whose requests it completed; a leader that leaves wakes one of the others, which leads on.
// So, whenever the mutex is free: either somebody leads, or nobody waits, or a waiter was woken and
// will lead.
//
// End of a channel: close() fails everything in flight and everything after. It comes from the
// control connection (ChannelClosed, its own end), or from here when the worker wrote nonsense.
//
// Lock order: ControlConnection's mutex before Channel's. So nothing here calls the connection with
// the mutex held.
//
// Thread safety: all public methods from any thread. Methods named ..._locked need the mutex.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "bucketd/status.h"
#include "common/spin_budget.h"
#include "libclient/lane.h"
#include "libclient/poll_set.h"

namespace bucketd::internal {

// Longest sleep before a look at `closed` and at the control connection.
inline constexpr std::chrono::milliseconds kLongestSleep{250};
// How long a channel that is closed in shared memory waits for the event that says why.
inline constexpr std::chrono::milliseconds kClosedReasonTimeout{1000};

// What is said to a request that was in flight when its lane ended, and to later ones.
enum class Ending {
  kNotStarted,  // UNAVAILABLE, may be sent again; what was being run: ABORTED
  kAsStated,    // the status as it is
  kUnknown,     // ABORTED, may or may not have run; to later requests UNAVAILABLE
};

// A request that was being run when its worker died.
struct ExecutingRequest {
  std::uint64_t user_data = 0;
  std::uint32_t lane_id = 0;
};

class Channel {
 public:
  Channel(std::uint64_t id, std::weak_ptr<ControlConnection> connection,
          std::chrono::microseconds spin);
  virtual ~Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  std::uint64_t id() const { return id_; }
  std::uint64_t generation() const { return generation_; }
  bool is_closed() const { return closed_.load(std::memory_order_acquire); }
  // Whether the worker, or the supervisor for it, says in the transport that all is over.
  virtual bool peer_closed() const = 0;
  // Whether waking the worker will take a system call.
  virtual bool peer_sleeps() const = 0;
  // Whether the worker ran last on the CPU that this thread runs on: looking would keep it from
  // running. A hint.
  virtual bool shares_cpu_with_peer() const = 0;
  // Whether every look at the transport is a system call.
  virtual bool is_polled_by_system_calls() const = 0;

  void add_lane(Lane& lane);
  void remove_lane(Lane& lane);

  // A free slot, now the caller's (kHeld); waits for one until `wait_until`. WOULD_BLOCK or
  // DEADLINE_EXCEEDED when there is none in time (the first if the time was over at the start), and
  // the lane's status when it is closed.
  Result<InFlight*> take_slot(Lane& lane, std::chrono::steady_clock::time_point wait_until);
  // Hands the request to the worker. The lane's status when it is closed: nothing was submitted.
  Status submit(InFlight& request);
  // Waits until the request is over; false when the deadline came first.
  bool wait(InFlight& request, Deadline deadline);
  // Waits until what was submitted for that session before is over, whoever it belongs to; false
  // when the deadline came first. Takes no answer away from anybody.
  bool wait_for_session(Lane& lane, std::uint64_t session_handle, Deadline deadline);
  // Gives a slot back: at once, or at its completion if the worker has it.
  void release(InFlight& request);
  // Takes the completions that are there.
  void collect();
  std::size_t free_slot_count(Lane& lane);

  // Remembers `plan` for the lane (forgets, if none).
  void remember_plan(InFlight& request, std::optional<Plan> plan);
  std::shared_ptr<const Plan> find_plan(Lane& lane, std::span<const TensorSignature> inputs);

  // The control connection says that it is over: fails what is in flight, with ABORTED what
  // `executing` names, with UNAVAILABLE the rest. Only the first call counts.
  void close(const Status& status, std::span<const ExecutingRequest> executing = {});
  // The control connection ended: nobody will say what became of what is in flight.
  void connection_ended(const Status& status);
  void close_lane(std::uint32_t lane_id, const Status& status);
  // The worker wrote nonsense: fails everything with `status`, INTERNAL.
  void condemn(const Status& status);

  // Makes completions raise `poll_set`, for good.
  virtual void enable_poll(std::shared_ptr<PollSet> poll_set) = 0;
  // For the event loop: takes in what raised the poll set.
  virtual void dispatch() = 0;

 protected:
  struct Waiter {
    const InFlight* request = nullptr;    // waits for this
    bool takes_answer = true;             // and is who takes its answer
    const Lane* lane_for_slot = nullptr;  // or for a slot of this
    std::condition_variable wake;
  };

  // --- the transport ---
  // Puts the request, whose slot is written, on its way.
  virtual void push_locked(InFlight& request) = 0;
  // Whether the worker is known to be gone, after a look.
  virtual bool peer_is_gone_locked() = 0;
  // Tells the worker, if it sleeps.
  virtual void notify_peer() = 0;
  // Calls complete_locked() for every completion that is there.
  virtual void collect_locked() = 0;
  // Says that this side will sleep (a look must follow), and that it does no more.
  virtual void arm_locked() = 0;
  virtual void disarm_locked() = 0;
  // Sleeps until a completion may be there or `until`. When `interruptible`, interrupt() ends it
  // soon too. Without the mutex; one thread at a time.
  virtual void sleep(std::chrono::steady_clock::time_point until, bool interruptible) = 0;
  virtual void interrupt() = 0;
  // Ends the use of descriptors that a poll set may hold.
  virtual void closed_locked() = 0;
  // A lane went: nothing may refer to its slots any more.
  virtual void lane_removed_locked() {}

  // Handles one entry, already copied, whose answer lies in the first `output_bytes` of the output
  // slot. False, and the channel is closed, when it is nonsense.
  bool complete_locked(Lane& lane, const CompletionEntry& entry, std::uint64_t output_bytes);
  void close_locked(const Status& status, Ending ending,
                    std::span<const ExecutingRequest> executing = {});
  // The control connection's descriptor, to sleep on; -1 when it is gone. Events that wait there
  // are taken in without the mutex.
  int control_fd() const;
  void look_at_control();
  // Of a SubmissionEntry.
  static std::uint64_t deadline_ns(const InFlight& request);

  std::mutex mutex_;
  std::vector<Lane*> lanes_;           // guarded by mutex_
  std::shared_ptr<PollSet> poll_set_;  // guarded by mutex_; null until asked for
  bool completed_for_others_ = false;  // guarded by mutex_

 private:
  bool wait_locked(std::unique_lock<std::mutex>& lock, Waiter& waiter, Deadline deadline,
                   const auto& done);
  void lead(std::unique_lock<std::mutex>& lock, Waiter& waiter, Deadline deadline,
            const auto& done);
  // Whether the answer may come within what this side spends on looking.
  // Notes when the answer may come, and when it came.
  static void expect_answer_locked(InFlight& request);
  static void learn_locked(Lane& lane, const InFlight& request, const CompletionEntry& entry);
  bool comes_soon_locked(const Waiter& waiter) const;
  std::optional<Forecast::Window> window_locked(const Waiter& waiter) const;
  // Looks itself, without sleeping. True if it found what it waits for and kept its CPU.
  bool look_for(std::unique_lock<std::mutex>& lock, Waiter& waiter,
                std::chrono::nanoseconds duration, const auto& done);
  // Takes completions on behalf of `waiter` (null: of nobody), and tells the event loop of others'.
  void collect_for_locked(const Waiter* waiter);
  // The channel, or `lane`, is closed in the transport: hears why, without the mutex.
  void hear_why(Lane* lane);
  void fail_lane_locked(Lane& lane, const Status& status, Ending ending,
                        std::span<const ExecutingRequest> executing = {});
  void finish_locked(InFlight& request, SlotState state);
  // One that nobody waits for any more.
  void finish_abandoned_locked(InFlight& request);
  void wake_waiters_of_locked(const InFlight& request);
  void free_locked(InFlight& request);
  Lane* silent_lane_locked();

  const std::uint64_t id_;
  const std::uint64_t generation_;
  const std::weak_ptr<ControlConnection> connection_;
  SpinBudget spin_budget_;  // guarded by mutex_

  std::atomic<bool> closed_{false};
  Status closed_status_;                 // guarded by mutex_
  Ending ending_ = Ending::kNotStarted;  // guarded by mutex_
  std::vector<Waiter*> waiters_;         // guarded by mutex_; the leader is not among them
  Waiter* leader_ = nullptr;             // guarded by mutex_
  const Waiter* collector_ = nullptr;    // guarded by mutex_: on whose behalf collect_locked() runs
};

}  // namespace bucketd::internal
