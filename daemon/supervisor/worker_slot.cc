#include "daemon/supervisor/worker_slot.h"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace bucketd::supervisor {
namespace {

// A worker that served this long without dying starts anew without delay.
constexpr std::chrono::seconds kCalmTime{30};
// Between the two looks that must agree before a worker is killed.
constexpr std::chrono::milliseconds kSecondLook{2};

std::uint64_t sum(const WorkerStatus& page, std::atomic<std::uint64_t> ExecutorStatus::*field) {
  std::uint64_t total = 0;
  for (const ExecutorStatus& executor : page.executors) {
    total += (executor.*field).load(std::memory_order_relaxed);
  }
  return total;
}

}  // namespace

WorkerSlot::WorkerSlot(asio::io_context& context, std::uint32_t id,
                       const WorkerConfiguration& worker, const Configuration& configuration,
                       std::string executable, Observer& observer)
    : context_(context),
      id_(id),
      worker_(worker),
      configuration_(configuration),
      executable_(std::move(executable)),
      observer_(observer),
      restart_timer_(context),
      ready_timer_(context),
      watch_timer_(context) {}

WorkerLaunch WorkerSlot::launch(link::WorkerMode mode) {
  return {executable_, id_, observer_.next_incarnation(), mode, worker_, configuration_.wakeup,
          configuration_.logging.level,
          // It answers in order, and a load, which has a limit of its own, may come first.
          2 * configuration_.limits.probe_timeout};
}

void WorkerSlot::start() {
  const WorkerLaunch launched = launch(link::WorkerMode::kServe);
  Result<std::shared_ptr<WorkerProcess>> started = WorkerProcess::start(
      context_, launched,
      {[this] {
         ready_timer_.cancel();
         ready_since_ = Clock::now();
         failed_starts_ = 0;
         spdlog::info("worker {} is ready: process {}, incarnation {}, {}", id_, process_->pid(),
                      process_->incarnation(), process_->library_version());
         observer_.worker_ready(*this);
       },
       [this](const link::Message& message) { observer_.worker_event(*this, message); },
       [this](const WorkerDeath& death) { on_death(death); }});
  if (!started) {
    spdlog::error("worker {}: {}", id_, started.error().message());
    // Every client may see this, and the error holds paths.
    last_death_ = "could not be started; the daemon's log says why";
    ++failed_starts_;
    schedule_restart();
    return;
  }
  process_ = std::move(*started);
  ready_timer_.expires_after(configuration_.limits.probe_timeout);
  ready_timer_.async_wait([this](boost::system::error_code failure) {
    if (failure || process_ == nullptr || process_->is_ready()) return;
    process_->kill("did not get ready within " +
                       std::to_string(configuration_.limits.probe_timeout.count()) + " ms",
                   false);
  });
}

void WorkerSlot::stop_restarting() {
  restarting_allowed_ = false;
  restart_timer_.cancel();
}

WorkerState WorkerSlot::state() const {
  if (is_ready()) return WorkerState::kServing;
  if (!restarting_allowed_) return WorkerState::kStopped;
  return restarts_ == 0 && failed_starts_ == 0 ? WorkerState::kStarting : WorkerState::kRestarting;
}

std::uint64_t WorkerSlot::now(std::atomic<std::uint64_t> ExecutorStatus::*counter) const {
  return process_ == nullptr ? 0 : sum(process_->status_page(), counter);
}

std::uint64_t WorkerSlot::completed() const {
  return completed_before_ + now(&ExecutorStatus::completed);
}

std::uint64_t WorkerSlot::failed() const { return failed_before_ + now(&ExecutorStatus::failed); }

std::uint64_t WorkerSlot::state_bytes_copied() const {
  return copied_before_ + now(&ExecutorStatus::state_bytes_copied);
}

std::uint64_t WorkerSlot::state_bytes_written_back() const {
  return written_back_before_ + now(&ExecutorStatus::state_bytes_written_back);
}

void WorkerSlot::on_death(const WorkerDeath& death) {
  ready_timer_.cancel();
  watch_timer_.cancel();
  suspect_.reset();
  completed_before_ = completed();
  failed_before_ = failed();
  copied_before_ = state_bytes_copied();
  written_back_before_ = state_bytes_written_back();
  if (!process_->is_ready()) ++failed_starts_;
  if (process_->is_ready() && Clock::now() - ready_since_ >= kCalmTime) restart_delay_ = {};
  last_death_ = death.cause;
  observer_.worker_died(*this, death);
  process_.reset();
  schedule_restart();
}

void WorkerSlot::schedule_restart() {
  if (!restarting_allowed_) return;
  ++restarts_;
  const CrashConfiguration& crash = configuration_.crash;
  restart_delay_ = restart_delay_.count() == 0
                       ? crash.restart_delay
                       : std::min(restart_delay_ * 2, crash.restart_delay_max);
  spdlog::info("worker {} starts again in {} ms", id_, restart_delay_.count());
  restart_timer_.expires_after(restart_delay_);
  restart_timer_.async_wait([this](boost::system::error_code failure) {
    if (!failure && restarting_allowed_) start();
  });
}

void WorkerSlot::watch_executions() { look_at_executions(); }

void WorkerSlot::schedule_look(Clock::duration delay) {
  watch_timer_.expires_after(delay);
  watch_timer_.async_wait([this](boost::system::error_code failure) {
    if (!failure) look_at_executions();
  });
}

void WorkerSlot::look_at_executions() {
  if (process_ == nullptr || !process_->is_alive()) return;
  const WorkerStatus& page = process_->status_page();
  // steady_clock is CLOCK_MONOTONIC, which the page's times are of.
  const auto now_ns =
      static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now().time_since_epoch()).count());
  // Whatever begins after this look cannot be over its limit earlier than this.
  Clock::duration next = observer_.smallest_execution_limit(*this);
  std::optional<Suspect> suspect;
  bool is_executing = false;
  for (std::uint32_t i = 0; i < worker_.cores; ++i) {
    const ExecutorStatus& executor = page.executors[i];
    if (executor.state.load(std::memory_order_acquire) !=
        static_cast<std::uint32_t>(ExecutorState::kExecuting)) {
      continue;
    }
    is_executing = true;
    const std::uint32_t model_id = executor.model_id.load(std::memory_order_relaxed);
    const Suspect candidate{i, executor.started_ns.load(std::memory_order_relaxed),
                            executor.user_data.load(std::memory_order_relaxed)};
    const std::optional<Observer::Limit> limit = observer_.execution_limit(*this, model_id);
    if (!limit) continue;
    const auto elapsed =
        std::chrono::nanoseconds(now_ns > candidate.started_ns ? now_ns - candidate.started_ns : 0);
    if (elapsed <= limit->duration) {
      // Rounded up: a look that comes a little too early would only come again.
      next =
          std::min<Clock::duration>(next, limit->duration - elapsed + std::chrono::milliseconds(1));
      continue;
    }
    if (suspect_ == candidate) {
      spdlog::warn("worker {}: model '{}' is over its execution limit of {} ms", id_, limit->model,
                   limit->duration.count());
      process_->blame_executor(i);
      process_->kill("was killed, since model '" + limit->model +
                         "' exceeded its execution limit of " +
                         std::to_string(limit->duration.count()) + " ms",
                     false);
      return;
    }
    suspect = candidate;
  }
  suspect_ = suspect;
  if (!is_executing && !observer_.has_clients(*this)) return;
  schedule_look(suspect_ ? kSecondLook : next);
}

}  // namespace bucketd::supervisor
