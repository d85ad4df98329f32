// WorkerSlot: one configured worker, over all its incarnations.
//
// Starts a WorkerProcess, starts the next when that one was reaped (never before), waits longer
// after each death in a row, and kills one that is over an execution limit or does not get ready.
// What a death means for channels and models is the observer's affair.
//
// Owned by the Supervisor; the observer must outlive it.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/worker_process.h"

namespace bucketd::supervisor {

enum class WorkerState : std::uint8_t {
  kStarting = 0,
  kServing = 1,
  kRestarting = 2,
  kStopped = 3,
};

class WorkerSlot {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void worker_ready(WorkerSlot& slot) = 0;
    // Called with the process still in place (process()); afterwards it is gone.
    virtual void worker_died(WorkerSlot& slot, const WorkerDeath& death) = 0;
    virtual void worker_event(WorkerSlot& slot, const link::Message& message) = 0;
    // The execution limit and name of a model on this worker; nothing if there is no such model.
    struct Limit {
      std::chrono::milliseconds duration;
      std::string model;
    };
    virtual std::optional<Limit> execution_limit(const WorkerSlot& slot,
                                                 std::uint32_t model_id) = 0;
    // The smallest limit of all models on this worker.
    virtual std::chrono::milliseconds smallest_execution_limit(const WorkerSlot& slot) = 0;
    // Whether somebody could submit requests to this worker.
    virtual bool has_clients(const WorkerSlot& slot) = 0;
    virtual std::uint64_t next_incarnation() = 0;
  };

  WorkerSlot(asio::io_context& context, std::uint32_t id, const WorkerConfiguration& worker,
             const Configuration& configuration, std::string executable, Observer& observer);

  void start();
  // Starts no incarnation any more.
  void stop_restarting();

  std::uint32_t id() const { return id_; }
  const WorkerConfiguration& configuration() const { return worker_; }
  // What an incarnation is started with; probes take it too.
  WorkerLaunch launch(link::WorkerMode mode);
  // The present incarnation, ready or not; null while there is none.
  WorkerProcess* process() { return process_.get(); }
  bool is_ready() const {
    return process_ != nullptr && process_->is_alive() && process_->is_ready();
  }
  std::uint64_t incarnation() const { return process_ == nullptr ? 0 : process_->incarnation(); }
  // Deaths in a row of incarnations that never became ready.
  std::uint32_t failed_starts() const { return failed_starts_; }

  WorkerState state() const;
  std::uint32_t restarts() const { return restarts_; }
  const std::string& last_death() const { return last_death_; }
  void set_last_death(std::string text) { last_death_ = std::move(text); }
  std::uint64_t completed() const;
  std::uint64_t failed() const;
  // See worker_status.h; of all incarnations.
  std::uint64_t state_bytes_copied() const;
  std::uint64_t state_bytes_written_back() const;

  // Somebody may submit requests from now on: watch for executions that take too long, until
  // has_clients() says that nobody can any more.
  void watch_executions();

 private:
  // Of the present incarnation.
  std::uint64_t now(std::atomic<std::uint64_t> ExecutorStatus::*counter) const;
  void on_death(const WorkerDeath& death);
  void schedule_restart();
  void look_at_executions();
  void schedule_look(Clock::duration delay);

  // An execution that was over its limit when last looked at.
  struct Suspect {
    std::uint32_t executor = 0;
    std::uint64_t started_ns = 0;
    std::uint64_t user_data = 0;
    friend bool operator==(const Suspect&, const Suspect&) = default;
  };

  asio::io_context& context_;
  const std::uint32_t id_;
  const WorkerConfiguration worker_;
  const Configuration& configuration_;
  const std::string executable_;
  Observer& observer_;
  std::shared_ptr<WorkerProcess> process_;
  asio::steady_timer restart_timer_;
  asio::steady_timer ready_timer_;
  asio::steady_timer watch_timer_;
  bool restarting_allowed_ = true;
  std::optional<Suspect> suspect_;
  Clock::time_point ready_since_{};
  std::chrono::milliseconds restart_delay_{0};
  std::uint32_t restarts_ = 0;
  std::uint32_t failed_starts_ = 0;
  std::string last_death_;
  std::uint64_t completed_before_ = 0;
  std::uint64_t failed_before_ = 0;
  std::uint64_t copied_before_ = 0;
  std::uint64_t written_back_before_ = 0;
};

}  // namespace bucketd::supervisor
