#include "daemon/worker/scheduler.h"

#include <algorithm>
#include <cassert>

#include "daemon/worker/answer.h"
#include "daemon/worker/monotonic_clock.h"

namespace bucketd {
namespace {

// With more channels than this, an executor that has queued work does not look into all the rings
// before each request, but before each kLooksToSkip-th.
constexpr std::size_t kManyChannels = 64;
constexpr std::uint32_t kLooksToSkip = 8;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Result<std::unique_ptr<Scheduler>> Scheduler::make(const Options& options, const EventFd* control,
                                                   ViolationSink on_violation) {
  Result<std::unique_ptr<Doorbells>> doorbells = Doorbells::make(options.policy);
  if (!doorbells) return error(doorbells.error());
  return std::unique_ptr<Scheduler>(
      new Scheduler(options, control, std::move(on_violation), std::move(*doorbells)));
}

Scheduler::Scheduler(const Options& options, const EventFd* control, ViolationSink on_violation,
                     std::unique_ptr<Doorbells> doorbells)
    : options_(options),
      control_(control),
      on_violation_(std::move(on_violation)),
      doorbells_(std::move(doorbells)) {}

Scheduler::~Scheduler() {
  // Lanes hold their channels, and these their lanes.
  for (const auto& [id, channel] : channels_) {
    drop_all(*channel);
    channel->scheduling.lanes.clear();
  }
}

// --- taking and picking ---

void Scheduler::enqueue(Lane& lane, const SubmissionEntry& entry, std::uint64_t now_ns) {
  QueuedRequest& request = lane.requests()[entry.slot];
  request.entry = entry;
  request.taken_ns = now_ns;
  request.session = nullptr;
  request.order = nullptr;
  if (entry.session_handle != 0) {
    const auto found = sessions_.find({lane.channel().connection_id(), entry.session_handle});
    if (found != sessions_.end()) {
      request.session = found->second;
      request.order = &found->second->order;
    }
  }
  if (entry.deadline_ns != 0) ++queued_deadlines_;
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
  looks_skipped_ = 0;
  std::uint64_t now_ns = 0;
  for (const std::shared_ptr<RingChannel>& channel : ring_channels_) {
    for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
      if (channel->scheduling.is_broken) break;
      if (!lane->is_closing) look_into(*channel, static_cast<RingLane&>(*lane), now_ns);
    }
  }
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
  if (request.entry.deadline_ns != 0) --queued_deadlines_;
  return Job{request.lane->shared_from_this(), std::move(request.session), request.entry,
             request.taken_ns};
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
  while (!is_stopping_) {
    look_into_rings();
    if (slept) doorbells_->judge_rings();
    slept = false;
    if (pick(job)) {
      const bool more = queue_.has_ready();
      const bool is_long =
          job.lane->model().expected_ns.load(std::memory_order_relaxed) >= kHandOverNs;
      const bool rouse_follower = followers_ > 0 && (more || (!has_leader_ && is_long));
      const bool rouse_leader = followers_ == 0 && is_asleep_ && more;
      const bool watch_deadlines =
          followers_ == 0 && !has_leader_ && queued_deadlines_ > 0 && !control_watches_deadlines_;
      if (watch_deadlines) control_watches_deadlines_ = true;
      lock.unlock();
      if (rouse_follower) follower_woken_.notify_one();
      if (rouse_leader) doorbells_->wake();
      // Nobody is left to see deadlines pass; the control thread looks until nothing is queued.
      if (watch_deadlines && control_ != nullptr) control_->notify();
      return true;
    }
    if (has_leader_) {
      ++followers_;
      follower_woken_.wait(lock);
      --followers_;
    } else {
      lead(lock);
      slept = true;
    }
  }
  return false;
}

bool Scheduler::spin(std::unique_lock<std::mutex>& lock) {
  if (options_.spin_us == 0) return false;
  const std::uint64_t until = monotonic_ns() + std::uint64_t{options_.spin_us} * 1000;
  do {
    lock.unlock();
    for (int i = 0; i < 32; ++i) relax();
    lock.lock();
    look_into_rings();
    if (queue_.has_ready() || is_stopping_) return true;
  } while (monotonic_ns() < until);
  return false;
}

void Scheduler::lead(std::unique_lock<std::mutex>& lock) {
  has_leader_ = true;
  const bool found = spin(lock);
  doorbells_->arm(ring_channels_, channels_version_);
  if (!found) look_into_rings();
  if (!queue_.has_ready() && !is_stopping_) {
    is_asleep_ = true;
    lock.unlock();
    doorbells_->sleep(std::nullopt);
    lock.lock();
    is_asleep_ = false;
  }
  doorbells_->disarm();
  has_leader_ = false;
  // So that a channel which was closed meanwhile goes away although everybody is busy from now on.
  if (doorbells_->version() != channels_version_) doorbells_->forget_channels();
}

void Scheduler::account_end(Lane& lane) {
  --lane.in_flight;
  --in_flight_;
  if (control_ != nullptr &&
      ((lane.is_closing && lane.in_flight == 0) || (is_draining_ && in_flight_ == 0))) {
    control_->notify();
  }
}

void Scheduler::finish(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (job.session != nullptr) queue_.finish(job.session->order);
    account_end(*job.lane);
  }
  // Outside the lock: the last holder unmaps.
  job.session = nullptr;
  job.lane = nullptr;
}

bool Scheduler::submit(Lane& lane, const SubmissionEntry& entry) {
  bool rouse_leader = false;
  {
    const std::lock_guard lock(mutex_);
    if (is_draining_ || lane.is_closing || lane.channel().scheduling.is_broken) return false;
    enqueue(lane, entry, monotonic_ns());
    rouse_leader = followers_ == 0 && has_leader_;
  }
  if (rouse_leader) {
    doorbells_->wake();
  } else {
    follower_woken_.notify_one();
  }
  return true;
}

void Scheduler::report_violation(Channel& channel, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  violation(channel, reason);
}

// --- closing ---

template <typename Wanted>
std::vector<Job> Scheduler::take_out(Lane& lane, Wanted wanted) {
  std::vector<Job> jobs;
  for (QueuedRequest& request : lane.requests()) {
    if (!request.is_queued || !wanted(request)) continue;
    queue_.remove(request);
    jobs.push_back(make_job(request));
    account_end(lane);
  }
  return jobs;
}

void Scheduler::answer_all(std::vector<Job>& jobs, const Status& status) {
  for (Job& job : jobs) answer_error(*job.lane, make_completion(job.entry), status);
}

void Scheduler::drop_all(Channel& channel) {
  for (const std::shared_ptr<Lane>& lane : channel.scheduling.lanes) {
    take_out(*lane, [](const QueuedRequest&) { return true; });
  }
}

void Scheduler::channels_changed() {
  ++channels_version_;
  // The doorbells hold the channels that they slept on. A sleeping leader lets go of them when it
  // wakes.
  if (has_leader_) {
    doorbells_->wake();
  } else {
    doorbells_->forget_channels();
  }
}

void Scheduler::add_ring_channel(std::shared_ptr<RingChannel> channel) {
  const std::lock_guard lock(mutex_);
  ring_channels_.push_back(channel);
  channels_.emplace(channel->id(), std::move(channel));
  channels_changed();
}

void Scheduler::add_stream_channel(std::shared_ptr<Channel> channel) {
  const std::lock_guard lock(mutex_);
  channels_.emplace(channel->id(), std::move(channel));
}

std::shared_ptr<Channel> Scheduler::find_channel(std::uint64_t channel_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = channels_.find(channel_id);
  return found != channels_.end() ? found->second : nullptr;
}

bool Scheduler::add_lane(std::shared_ptr<Lane> lane) {
  const std::lock_guard lock(mutex_);
  Channel& channel = lane->channel();
  const auto found = channels_.find(channel.id());
  if (found == channels_.end() || found->second.get() != &channel) return false;
  std::size_t slots = lane->slot_count();
  for (const std::shared_ptr<Lane>& other : channel.scheduling.lanes) {
    if (other->id() == lane->id()) return false;
    slots += other->slot_count();
  }
  channel.scheduling.queue.reserve(slots);
  channel.scheduling.lanes.push_back(std::move(lane));
  return true;
}

std::shared_ptr<Lane> Scheduler::find_lane(std::uint64_t channel_id, std::uint32_t lane_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = channels_.find(channel_id);
  if (found == channels_.end()) return nullptr;
  for (const std::shared_ptr<Lane>& lane : found->second->scheduling.lanes) {
    if (lane->id() == lane_id) return lane;
  }
  return nullptr;
}

void Scheduler::remove_lane(Lane& lane) {
  lane.is_closing = true;
  std::vector<std::shared_ptr<Lane>>& lanes = lane.channel().scheduling.lanes;
  std::erase_if(lanes, [&](const std::shared_ptr<Lane>& other) { return other.get() == &lane; });
  // A stream's channel is its lane's alone.
  if (lanes.empty() && dynamic_cast<RingChannel*>(&lane.channel()) == nullptr) {
    channels_.erase(lane.channel().id());
  }
}

void Scheduler::close_lane(Lane& lane) {
  std::vector<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs = take_out(lane, [](const QueuedRequest&) { return true; });
    remove_lane(lane);
  }
  answer_all(jobs,
             Status(StatusCode::kCancelled, "the lane was closed before the request started"));
  lane.close();
}

void Scheduler::close_channel(std::uint64_t channel_id) {
  std::shared_ptr<Channel> channel;
  std::vector<std::shared_ptr<Lane>> lanes;  // destroyed without the mutex
  {
    const std::lock_guard lock(mutex_);
    const auto found = channels_.find(channel_id);
    if (found == channels_.end()) return;
    channel = std::move(found->second);
    channels_.erase(found);
    channel->scheduling.is_broken = true;  // nothing more is read
    drop_all(*channel);
    lanes = std::move(channel->scheduling.lanes);
    channel->scheduling.lanes.clear();
    for (const std::shared_ptr<Lane>& lane : lanes) lane->is_closing = true;
    if (std::erase_if(ring_channels_, [&](const std::shared_ptr<RingChannel>& other) {
          return other.get() == channel.get();
        }) > 0) {
      channels_changed();
    }
  }
  for (const std::shared_ptr<Lane>& lane : lanes) lane->close();
}

std::vector<std::shared_ptr<Lane>> Scheduler::begin_unload(const LoadedModel& model) {
  std::vector<std::shared_ptr<Lane>> lanes;
  const std::lock_guard lock(mutex_);
  looks_skipped_ = kLooksToSkip;
  look_into_rings();
  for (const auto& [id, channel] : channels_) {
    for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
      if (&lane->model() != &model) continue;
      lane->is_closing = true;
      lanes.push_back(lane);
    }
  }
  if (queue_.has_ready()) {
    // Nobody may be awake to run what was just taken.
    if (followers_ == 0 && has_leader_) {
      doorbells_->wake();
    } else {
      follower_woken_.notify_one();
    }
  }
  return lanes;
}

bool Scheduler::retire_if_idle(Lane& lane) {
  std::vector<Job> rest;
  {
    const std::lock_guard lock(mutex_);
    if (lane.in_flight > 0) return false;
    auto* ring = dynamic_cast<RingLane*>(&lane);
    if (ring != nullptr && !lane.channel().scheduling.is_broken) {
      std::uint64_t now_ns = 0;
      if (look_into(lane.channel(), *ring, now_ns)) {
        rest = take_out(lane, [](const QueuedRequest&) { return true; });
      }
    }
    remove_lane(lane);
  }
  answer_all(rest, Status(StatusCode::kUnavailable, "model '" + lane.model().description().name +
                                                        "' is being unloaded or replaced"));
  lane.close();
  return true;
}

bool Scheduler::add_session(std::shared_ptr<Session> session) {
  const std::lock_guard lock(mutex_);
  const SessionKey key{session->connection_id, session->handle};
  return sessions_.emplace(key, std::move(session)).second;
}

std::shared_ptr<Session> Scheduler::remove_session(std::uint64_t connection_id,
                                                   std::uint64_t handle) {
  std::shared_ptr<Session> session;
  std::vector<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find({connection_id, handle});
    if (found == sessions_.end()) return nullptr;
    session = std::move(found->second);
    sessions_.erase(found);
    for (const auto& [id, channel] : channels_) {
      if (channel->connection_id() != connection_id) continue;
      for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
        std::vector<Job> some = take_out(*lane, [&](const QueuedRequest& request) {
          return request.session.get() == session.get();
        });
        std::move(some.begin(), some.end(), std::back_inserter(jobs));
      }
    }
  }
  answer_all(jobs,
             Status(StatusCode::kCancelled, "the session was closed before the request started"));
  return session;
}

std::vector<std::shared_ptr<Session>> Scheduler::remove_sessions_of(const LoadedModel& model) {
  std::vector<std::shared_ptr<Session>> removed;
  const std::lock_guard lock(mutex_);
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    if (at->second->model.get() == &model) {
      removed.push_back(std::move(at->second));
      at = sessions_.erase(at);
    } else {
      ++at;
    }
  }
  return removed;
}

void Scheduler::drain() {
  const std::lock_guard lock(mutex_);
  looks_skipped_ = kLooksToSkip;
  look_into_rings();
  is_draining_ = true;
  if (has_leader_) doorbells_->wake();
  follower_woken_.notify_all();
  if (in_flight_ == 0 && control_ != nullptr) control_->notify();
}

bool Scheduler::is_idle() const {
  const std::lock_guard lock(mutex_);
  return in_flight_ == 0;
}

std::optional<std::uint64_t> Scheduler::expire_deadlines() {
  std::vector<Job> expired;
  std::optional<std::uint64_t> nearest;
  {
    const std::lock_guard lock(mutex_);
    if (!control_watches_deadlines_) return std::nullopt;
    look_into_rings();
    const std::uint64_t now_ns = monotonic_ns();
    for (const auto& [id, channel] : channels_) {
      for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
        std::vector<Job> some = take_out(*lane, [&](const QueuedRequest& request) {
          const std::uint64_t deadline = request.entry.deadline_ns;
          if (deadline == 0) return false;
          if (deadline <= now_ns) return true;
          if (!nearest || deadline < *nearest) nearest = deadline;
          return false;
        });
        std::move(some.begin(), some.end(), std::back_inserter(expired));
      }
    }
    if (!nearest) control_watches_deadlines_ = false;
  }
  for (Job& job : expired) {
    CompletionEntry completion = make_completion(job.entry);
    completion.queue_ns = monotonic_ns() - job.taken_ns;
    answer_error(*job.lane, completion,
                 Status(StatusCode::kDeadlineExceeded,
                        "model '" + job.lane->model().description().name +
                            "': the deadline passed before the request could start"));
  }
  return nearest;
}

void Scheduler::stop() {
  const std::lock_guard lock(mutex_);
  is_stopping_ = true;
  doorbells_->wake();
  follower_woken_.notify_all();
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
