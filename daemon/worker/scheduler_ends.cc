// The Scheduler's part for the control thread: what comes and goes.
#include <algorithm>
#include <iterator>
#include <utility>

#include "common/monotonic_clock.h"
#include "daemon/worker/answer.h"
#include "daemon/worker/scheduler.h"

namespace bucketd {

std::vector<Job> Scheduler::take_out(Lane& lane, const Wanted& wanted) {
  std::vector<Job> jobs;
  if (lane.in_flight == 0) return jobs;
  for (QueuedRequest& request : lane.requests()) {
    if (!request.is_queued || !wanted(request)) continue;
    queue_.remove(request);
    jobs.push_back(make_job(request));
    account_end(lane);
  }
  return jobs;
}

std::vector<Job> Scheduler::take_out_all(Lane& lane) {
  return take_out(lane, [](const QueuedRequest&) { return true; });
}

void Scheduler::answer_all(std::vector<Job>& jobs, const Status& status) {
  for (Job& job : jobs) {
    // Counted as executor 0's: the page has no other place.
    status_.count(0, false);
    CompletionEntry completion = make_completion(job.entry);
    completion.queue_ns = monotonic_ns() - job.taken_ns;
    answer_error(*job.lane, completion, status);
  }
}

void Scheduler::drop_all(Channel& channel) {
  for (const std::shared_ptr<Lane>& lane : channel.scheduling.lanes) {
    take_out_all(*lane);
  }
}

void Scheduler::channels_changed() {
  ++channels_version_;
  // The doorbells hold the channels that they slept on. A sleeping leader lets go of them when it
  // wakes.
  if (has_leader_) {
    doorbells_->wake();
  } else {
    doorbells_->refresh(ring_channels_, channels_version_);
  }
}

void Scheduler::join_connection(Channel& channel) {
  // Entries of connections that have no channel any more.
  if (connections_.size() > 2 * channels_.size() + 16) {
    std::erase_if(connections_, [](const auto& known) { return known.second.expired(); });
  }
  channel.scheduling.queue = queue_of_connection(channel.connection_id());
}

std::shared_ptr<ClientQueue> Scheduler::queue_of_connection(std::uint64_t connection_id) {
  std::weak_ptr<ClientQueue>& known = connections_[connection_id];
  std::shared_ptr<ClientQueue> queue = known.lock();
  if (queue == nullptr) {
    queue = std::make_shared<ClientQueue>();
    known = queue;
  }
  return queue;
}

void Scheduler::add_ring_channel(std::shared_ptr<RingChannel> channel) {
  const std::lock_guard lock(mutex_);
  join_connection(*channel);
  ring_channels_.push_back(channel);
  channels_.emplace(channel->id(), std::move(channel));
  channels_changed();
}

void Scheduler::add_stream_channel(std::shared_ptr<Channel> channel) {
  const std::lock_guard lock(mutex_);
  join_connection(*channel);
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
  for (const std::shared_ptr<Lane>& other : channel.scheduling.lanes) {
    if (other->id() == lane->id()) return false;
  }
  channel.scheduling.queue->add_capacity(lane->slot_count());
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
  if (std::erase_if(lanes, [&](const auto& other) { return other.get() == &lane; }) > 0) {
    lane.channel().scheduling.queue->remove_capacity(lane.slot_count());
  }
  // A stream's channel is its lane's alone.
  if (lanes.empty() && dynamic_cast<RingChannel*>(&lane.channel()) == nullptr) {
    channels_.erase(lane.channel().id());
  }
}

void Scheduler::close_lane(Lane& lane) {
  std::vector<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs = take_out_all(lane);
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
    for (const std::shared_ptr<Lane>& lane : lanes) {
      lane->is_closing = true;
      channel->scheduling.queue->remove_capacity(lane->slot_count());
    }
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
  look_into_all_rings();
  for (const auto& [id, channel] : channels_) {
    for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
      if (&lane->model() != &model) continue;
      lane->is_closing = true;
      lanes.push_back(lane);
    }
  }
  // Nobody may be awake to run what was just taken.
  if (queue_.has_ready()) rouse(for_new_work());
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
        rest = take_out_all(lane);
      }
    }
    remove_lane(lane);
  }
  answer_all(rest, Status(StatusCode::kUnavailable, "model '" + lane.model().description().name +
                                                        "' is being unloaded or replaced"));
  lane.close();
  return true;
}

void Scheduler::drain() {
  const std::lock_guard lock(mutex_);
  look_into_all_rings();
  is_draining_ = true;
  if (queue_.has_ready()) rouse(for_new_work());
  if (in_flight_ == 0) control_.notify();
}

bool Scheduler::is_idle() const {
  const std::lock_guard lock(mutex_);
  return in_flight_ == 0;
}

std::optional<std::uint64_t> Scheduler::expire_deadlines() {
  std::vector<Job> expired;
  std::optional<std::uint64_t> next_look_ns;
  {
    const std::lock_guard lock(mutex_);
    if (!control_watches_deadlines_) return std::nullopt;
    look_into_rings();
    const std::uint64_t now_ns = monotonic_ns();
    std::uint64_t nearest_ns = now_ns + kDeadlineLookNs;  // one that comes may be earlier
    const auto has_passed = [&](const QueuedRequest& request) {
      const std::uint64_t deadline_ns = request.entry.deadline_ns;
      if (deadline_ns == 0) return false;
      if (deadline_ns > now_ns) nearest_ns = std::min(nearest_ns, deadline_ns);
      return deadline_ns <= now_ns;
    };
    for (const auto& [id, channel] : channels_) {
      if (queued_deadlines_ == 0) break;
      for (const std::shared_ptr<Lane>& lane : channel->scheduling.lanes) {
        if (lane->queued_deadlines == 0) continue;
        std::vector<Job> some = take_out(*lane, has_passed);
        std::move(some.begin(), some.end(), std::back_inserter(expired));
      }
    }
    control_watches_deadlines_ =
        std::exchange(ran_unwatched_, false) || queued_deadlines_ > 0 || !has_idle_executor();
    if (control_watches_deadlines_) next_look_ns = nearest_ns;
  }
  for (Job& job : expired) {
    std::vector<Job> one;
    one.push_back(std::move(job));
    answer_all(one, Status(StatusCode::kDeadlineExceeded,
                           "model '" + one.front().lane->model().description().name +
                               "': the deadline passed before the request could start"));
  }
  return next_look_ns;
}

std::size_t Scheduler::open_count() const {
  const std::lock_guard lock(mutex_);
  std::size_t count = channels_.size();
  for (const auto& [id, channel] : channels_) count += channel->scheduling.lanes.size();
  return count;
}

void Scheduler::stop() {
  const std::lock_guard lock(mutex_);
  is_stopping_ = true;
  doorbells_->wake();
  follower_woken_.notify_all();
}

}  // namespace bucketd
