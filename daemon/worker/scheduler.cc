#include "daemon/worker/scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/monotonic_clock.h"
#include "daemon/worker/answer.h"

namespace bucketd {
namespace {

// With more channels than this, an executor that has queued work does not look into all the rings
// before each request, but before each kLooksToSkip-th.
constexpr std::size_t kManyChannels = 64;
constexpr std::uint32_t kLooksToSkip = 8;

}  // namespace

Result<std::unique_ptr<Scheduler>> Scheduler::make(const Options& options, const EventFd& control,
                                                   const StatusPage& status,
                                                   ViolationSink on_violation) {
  Result<std::unique_ptr<Doorbells>> doorbells = Doorbells::make(options.policy);
  if (!doorbells) return error(doorbells.error());
  return std::unique_ptr<Scheduler>(
      new Scheduler(options, control, status, std::move(on_violation), std::move(*doorbells)));
}

Scheduler::Scheduler(const Options& options, const EventFd& control, const StatusPage& status,
                     ViolationSink on_violation, std::unique_ptr<Doorbells> doorbells)
    : options_(options),
      control_(control),
      status_(status),
      on_violation_(std::move(on_violation)),
      doorbells_(std::move(doorbells)),
      spin_budget_(std::uint64_t{options.spin_us} * 1000) {}

Scheduler::~Scheduler() {
  // Lanes hold their channels, and these their lanes.
  for (const auto& [id, channel] : channels_) {
    drop_all(*channel);
    channel->scheduling.lanes.clear();
  }
  for (const auto& operation : operations_) operation->queued.session = nullptr;
}

// --- taking and picking ---

void Scheduler::enqueue(Lane& lane, const SubmissionEntry& entry, std::uint64_t now_ns) {
  QueuedRequest& request = lane.requests()[entry.slot];
  request.entry = entry;
  request.taken_ns = now_ns;
  request.client = lane.channel().scheduling.queue.get();
  request.session = nullptr;
  request.order = nullptr;
  if (entry.session_handle != 0) {
    const auto found = sessions_.find({lane.channel().connection_id(), entry.session_handle});
    if (found != sessions_.end()) {
      request.session = found->second.session;
      request.order = &request.session->order;
    }
  }
  if (entry.deadline_ns != 0) {
    ++lane.queued_deadlines;
    ++queued_deadlines_;
  }
  ++lane.in_flight;
  ++in_flight_;
  ++lane.channel().scheduling.taken;
  queue_.add(request);
}

void Scheduler::look_into_rings() {
  if (is_draining_) return;
  if (ring_channels_.size() > kManyChannels && queue_.has_ready() &&
      ++looks_skipped_ < kLooksToSkip) {
    return;
  }
  look_into_all_rings();
}

void Scheduler::look_into_all_rings() {
  if (is_draining_) return;
  looks_skipped_ = 0;
  std::uint64_t now_ns = 0;
  for (const std::shared_ptr<RingChannel>& channel : ring_channels_) {
    look_into_lanes(*channel, now_ns);
  }
}

void Scheduler::look_into_lanes(RingChannel& channel, std::uint64_t& now_ns) {
  const std::uint64_t before = channel.scheduling.taken;
  for (const std::shared_ptr<Lane>& lane : channel.scheduling.lanes) {
    if (channel.scheduling.is_broken) break;
    if (!lane->is_closing) look_into(channel, static_cast<RingLane&>(*lane), now_ns);
  }
  if (channel.scheduling.taken != before) client_cpu_ = channel.client_cpu();
}

bool Scheduler::look_into(Channel& channel, RingLane& lane, std::uint64_t& now_ns) {
  const std::optional<std::uint32_t> available = lane.available();
  if (!available) {
    violation(channel, "the submission tail of lane " + std::to_string(lane.id()) +
                           " is further ahead than the ring is long");
    return false;
  }
  if (*available > 0 && now_ns == 0) now_ns = monotonic_ns();
  for (std::uint32_t i = 0; i < *available; ++i) {
    const SubmissionEntry entry = lane.take();
    if (entry.slot >= lane.slot_count()) {
      violation(channel, "a submission names slot " + std::to_string(entry.slot) + " of " +
                             std::to_string(lane.slot_count()));
      return false;
    }
    if (!lane.begin(entry.slot)) {
      violation(channel, "slot " + std::to_string(entry.slot) +
                             " was submitted again while it is in flight");
      return false;
    }
    enqueue(lane, entry, now_ns);
  }
  return true;
}

void Scheduler::violation(Channel& channel, const std::string& reason) {
  channel.scheduling.is_broken = true;
  drop_all(channel);
  on_violation_(channel.id(), reason);
}

Job Scheduler::make_job(QueuedRequest& request) {
  if (request.operation != nullptr) {
    return Job{nullptr,
               request.operation->shared_from_this(),
               std::move(request.session),
               request.entry,
               request.taken_ns,
               false};
  }
  if (request.entry.deadline_ns != 0) {
    --request.lane->queued_deadlines;
    --queued_deadlines_;
  }
  return Job{request.lane->shared_from_this(),
             nullptr,
             std::move(request.session),
             request.entry,
             request.taken_ns,
             false};
}

bool Scheduler::pick(Job& job) {
  QueuedRequest* request = queue_.pop();
  if (request == nullptr) return false;
  job = make_job(*request);
  return true;
}

bool Scheduler::next(Job& job) {
  std::unique_lock lock(mutex_);
  bool slept = false;
  bool is_overdue = false;  // a run that nobody was to watch over has turned out to be long
  while (!is_stopping_) {
    look_into_rings();
    if (slept) doorbells_->judge_rings();
    slept = false;
    if (pick(job)) {
      const Rousing rousing = before_running(job);
      lock.unlock();
      rouse(rousing);
      return true;
    }
    if (has_leader_ || (unled_running_ > 0 && !is_overdue && !wants_leader_)) {
      is_overdue = follow(lock);
    } else {
      lead(lock);
      slept = true;
      is_overdue = false;
    }
  }
  return false;
}

Scheduler::Rousing Scheduler::before_running(Job& job) {
  Rousing rousing;
  const bool more = queue_.has_ready();
  const bool is_long = job.operation != nullptr ||
                       job.lane->model().expected_ns.load(std::memory_order_relaxed) >= kHandOverNs;
  if (followers_ > 0) {
    if (more || (!has_leader_ && is_long)) {
      rousing.follower = true;
      // At once, even if a short request runs besides.
      wants_leader_ = wants_leader_ || (!has_leader_ && is_long);
    } else if (!has_leader_) {
      job.is_unled = true;
      ++unled_running_;
      ++unled_started_;
      rousing.follower = !has_deputy_;  // who becomes the deputy
    }
  } else {
    rousing.leader = is_asleep_ && more;
    // Nobody is left to see deadlines pass, of what is queued or of what comes.
    if (!has_leader_) {
      ran_unwatched_ = true;
      rousing.control = watch_deadlines();
    }
  }
  return rousing;
}

// Whom a request needs that was queued by a thread that does not run it.
Scheduler::Rousing Scheduler::for_new_work() {
  Rousing rousing;
  rousing.follower = followers_ > 0;
  rousing.leader = followers_ == 0 && has_leader_;
  if (!has_idle_executor() && queued_deadlines_ > 0) rousing.control = watch_deadlines();
  return rousing;
}

// Whether the control thread has to be told.
bool Scheduler::watch_deadlines() { return !std::exchange(control_watches_deadlines_, true); }

void Scheduler::rouse(const Rousing& rousing) {
  if (rousing.follower) follower_woken_.notify_one();
  if (rousing.leader) doorbells_->wake();
  if (rousing.control) control_.notify();
}

// Waits until there may be work, or somebody to take over from. True if a run that nobody watches
// over has been going on for too long.
bool Scheduler::follow(std::unique_lock<std::mutex>& lock) {
  ++followers_;
  bool is_overdue = false;
  if (!has_deputy_ && unled_looked_after_ != unled_started_) {
    has_deputy_ = true;
    unled_looked_after_ = unled_started_;
    const auto woken = follower_woken_.wait_for(lock, std::chrono::nanoseconds(kDeputyLookNs));
    is_overdue = woken == std::cv_status::timeout && unled_running_ > 0 &&
                 unled_looked_after_ == unled_started_;
    has_deputy_ = false;
    // Called away: somebody else has to go on looking.
    if (woken == std::cv_status::no_timeout) --unled_looked_after_;
  } else {
    follower_woken_.wait(lock);
  }
  --followers_;
  return is_overdue;
}

bool Scheduler::spin(std::unique_lock<std::mutex>& lock) {
  // The client could not submit meanwhile.
  if (client_cpu_ == current_cpu_mark()) return false;
  if (spin_budget_.limit_ns() == 0) return false;
  // A client that was asleep for a long execution takes its time to come back.
  const std::uint64_t part_ns =
      std::min(recent_execution_ns_ / kStayAwakePart, kLongestStayAwakeNs);
  const std::uint64_t budget_ns = spin_budget_.take(std::max(spin_budget_.limit_ns(), part_ns));
  if (budget_ns == 0) return false;
  StayAwake awake(budget_ns);
  bool found = false;
  while (!found) {
    lock.unlock();
    const bool goes_on = awake.goes_on();
    lock.lock();
    look_into_rings();
    found = queue_.has_ready() || is_stopping_;
    if (!goes_on) break;
  }
  spin_budget_.note(found && !awake.lost_cpu());
  return found;
}

void Scheduler::lead(std::unique_lock<std::mutex>& lock) {
  has_leader_ = true;
  wants_leader_ = false;
  const bool found = spin(lock);
  doorbells_->arm(ring_channels_, channels_version_);
  if (!found) look_into_rings();
  if (!queue_.has_ready() && !is_stopping_) {
    is_asleep_ = true;
    // Requests that wait for their session's turn have nobody else who sees their deadlines pass.
    const bool tell_control = queued_deadlines_ > 0 && watch_deadlines();
    lock.unlock();
    if (tell_control) control_.notify();
    doorbells_->sleep(std::nullopt);
    lock.lock();
    is_asleep_ = false;
  }
  doorbells_->disarm();
  has_leader_ = false;
  // So that a channel which was closed meanwhile goes away although everybody is busy from now on.
  if (doorbells_->version() != channels_version_) {
    doorbells_->refresh(ring_channels_, channels_version_);
  }
}

void Scheduler::account_end(Lane& lane) {
  --lane.in_flight;
  --in_flight_;
  if ((lane.is_closing && lane.in_flight == 0) || (is_draining_ && in_flight_ == 0)) {
    control_.notify();
  }
}

void Scheduler::finish(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (job.session != nullptr) queue_.finish(job.session->order);
    if (job.is_unled) --unled_running_;
    if (job.lane != nullptr) {
      recent_execution_ns_ = job.lane->model().expected_ns.load(std::memory_order_relaxed);
    }
    if (job.operation != nullptr) {
      account_end(*job.operation);
    } else {
      account_end(*job.lane);
    }
  }
  // Outside the lock: the last holder unmaps.
  job.session = nullptr;
  job.lane = nullptr;
  job.operation = nullptr;
}

void Scheduler::submit(Lane& lane, const SubmissionEntry& entry) {
  Rousing rousing;
  bool is_taken = false;
  {
    const std::lock_guard lock(mutex_);
    is_taken = !is_draining_ && !lane.is_closing && !lane.channel().scheduling.is_broken;
    if (is_taken) {
      enqueue(lane, entry, monotonic_ns());
      rousing = for_new_work();
    }
  }
  if (is_taken) return rouse(rousing);
  status_.count(0, false);
  answer_error(lane, make_completion(entry),
               Status(StatusCode::kUnavailable, "model '" + lane.model().description().name +
                                                    "': the worker takes no more requests for it"));
}

void Scheduler::report_violation(Channel& channel, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  violation(channel, reason);
}

std::size_t Scheduler::follower_count() const {
  const std::lock_guard lock(mutex_);
  return followers_;
}

bool Scheduler::has_sleeping_leader() const {
  const std::lock_guard lock(mutex_);
  return is_asleep_;
}

std::size_t Scheduler::slow_channel_count() const {
  const std::lock_guard lock(mutex_);
  return doorbells_->slow_count();
}

}  // namespace bucketd
