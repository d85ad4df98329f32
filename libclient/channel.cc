#include "libclient/channel.h"

#include <algorithm>
#include <string>
#include <utility>

#include "libclient/control_connection.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;

bool has_passed(Deadline deadline) { return deadline && Clock::now() >= *deadline; }

Status damaged(const Lane& lane, const std::string& what) {
  return Status(StatusCode::kInternal,
                "model '" + lane.model().name + "': the worker's answer is damaged: " + what);
}

}  // namespace

Channel::Channel(std::uint64_t id, std::weak_ptr<ControlConnection> connection,
                 std::chrono::microseconds spin)
    : id_(id),
      generation_(fork_generation()),
      connection_(std::move(connection)),
      spin_budget_(static_cast<std::uint64_t>(std::chrono::nanoseconds(spin).count())) {}

void Channel::add_lane(Lane& lane) {
  const std::lock_guard lock(mutex_);
  lanes_.push_back(&lane);
  if (is_closed()) fail_lane_locked(lane, closed_status_, ending_);
}

void Channel::remove_lane(Lane& lane) {
  const std::lock_guard lock(mutex_);
  std::erase(lanes_, &lane);
  lane_removed_locked();
}

Result<InFlight*> Channel::take_slot(Lane& lane, Clock::time_point wait_until) {
  std::unique_lock lock(mutex_);
  if (lane.free_slots.empty() && !lane.closed) {
    collect_for_locked(nullptr);  // an abandoned request may have ended
  }
  if (lane.free_slots.empty() && !lane.closed) {
    const std::string what = "model '" + lane.model().name + "': all " +
                             std::to_string(lane.slots.size()) +
                             " slots are in use by requests, futures and replies";
    if (has_passed(wait_until)) return error(StatusCode::kWouldBlock, what);
    Waiter waiter;
    waiter.lane_for_slot = &lane;
    const auto done = [&lane] { return !lane.free_slots.empty() || lane.closed; };
    if (!wait_locked(lock, waiter, wait_until, done)) {
      return error(StatusCode::kDeadlineExceeded, what + "; none became free in time");
    }
  }
  if (lane.closed) return error(lane.closed_status);
  InFlight& request = lane.slots[lane.free_slots.back()];
  if (const Status status = lane.prepare_slot(request.slot); !status.ok()) return error(status);
  lane.free_slots.pop_back();
  request.state.store(SlotState::kHeld, std::memory_order_relaxed);
  return &request;
}

Status Channel::submit(InFlight& request) {
  {
    const std::lock_guard lock(mutex_);
    const bool is_gone = peer_is_gone_locked();
    if (request.lane->closed) return request.lane->closed_status;
    if (is_gone) return request.lane->gone();
    ++request.use;
    request.order = ++request.lane->submissions;
    request.state.store(SlotState::kSubmitted, std::memory_order_relaxed);
    expect_answer_locked(request);
    push_locked(request);
  }
  notify_peer();
  return Status();
}

bool Channel::wait(InFlight& request, Deadline deadline) {
  if (request.is_over()) return true;
  std::unique_lock lock(mutex_);
  Waiter waiter;
  waiter.request = &request;
  return wait_locked(lock, waiter, deadline, [&request] { return request.is_over(); });
}

bool Channel::wait_for_session(Lane& lane, std::uint64_t session_handle, Deadline deadline) {
  std::unique_lock lock(mutex_);
  // Slots are used again by other threads meanwhile; what they submit now is not waited for.
  const std::uint64_t last = lane.submissions;
  for (InFlight& request : lane.slots) {
    const std::uint64_t number = request.user_data();
    const auto is_over = [&request, number] { return !request.is_in_flight(number); };
    // In this order: the handle belongs to the worker's request only while that is in flight.
    if (is_over() || request.order > last || request.session_handle != session_handle) continue;
    Waiter waiter;
    waiter.request = &request;
    waiter.takes_answer = false;
    if (!wait_locked(lock, waiter, deadline, is_over)) return false;
  }
  return true;
}

bool Channel::wait_locked(std::unique_lock<std::mutex>& lock, Waiter& waiter, Deadline deadline,
                          const auto& done) {
  collect_for_locked(&waiter);
  while (!done() && !has_passed(deadline)) {
    if (leader_ == nullptr) {
      leader_ = &waiter;
      lead(lock, waiter, deadline, done);
      leader_ = nullptr;
      break;
    }
    waiters_.push_back(&waiter);
    if (deadline) {
      waiter.wake.wait_until(lock, *deadline);
    } else {
      waiter.wake.wait(lock);
    }
    std::erase(waiters_, &waiter);
  }
  // The woken one finds itself done, or leads on.
  if (leader_ == nullptr && !waiters_.empty()) waiters_.front()->wake.notify_one();
  return done();
}

void Channel::lead(std::unique_lock<std::mutex>& lock, Waiter& waiter, Deadline deadline,
                   const auto& done) {
  if (comes_soon_locked(waiter) && !shares_cpu_with_peer()) {
    const std::chrono::nanoseconds budget(spin_budget_.take());
    if (budget.count() > 0) spin_budget_.note(look_for(lock, waiter, budget, done));
  }
  std::optional<Forecast::Window> window = window_locked(waiter);
  while (!done() && !has_passed(deadline)) {
    arm_locked();
    collect_for_locked(&waiter);
    Lane* const silent = silent_lane_locked();
    const Clock::time_point before = Clock::now();
    if (!done() && silent == nullptr) {
      Clock::time_point until = before + kLongestSleep;
      if (deadline) until = std::min(until, *deadline);
      if (window) until = std::min(until, window->from);
      lock.unlock();
      if (until > before) sleep(until, waiter.lane_for_slot != nullptr);
      lock.lock();
    }
    disarm_locked();
    collect_for_locked(&waiter);
    if (const Clock::time_point now = Clock::now(); window && (done() || now >= window->from)) {
      Forecast& forecast = waiter.request->lane->forecast;
      // An answer that came before its window cost a wake-up and no looking.
      if (!done()) {
        if (before < window->from) forecast.note_oversleep(now - window->from);
        const bool found = now < window->until && look_for(lock, waiter, window->until - now, done);
        forecast.note_window(found);
      }
      window.reset();
    }
    if (done()) return;
    if (silent != nullptr) {
      std::shared_ptr<Lane> keep = silent->weak_from_this().lock();
      lock.unlock();
      if (keep != nullptr) hear_why(keep.get());
      // Perhaps the last reference, and the lane's end needs the mutex.
      keep.reset();
      lock.lock();
    } else if (Clock::now() - before >= kLongestSleep) {
      lock.unlock();
      look_at_control();
      lock.lock();
    }
  }
}

bool Channel::comes_soon_locked(const Waiter& waiter) const {
  if (spin_budget_.limit_ns() == 0) return false;
  // A slot that somebody else of this process has to give back is nothing to look for.
  if (waiter.request == nullptr) return false;
  const std::chrono::nanoseconds limit(spin_budget_.limit_ns());
  const InFlight& request = *waiter.request;
  return request.expected.count() == 0 ||
         request.submitted_at + request.expected < Clock::now() + limit;
}

std::optional<Forecast::Window> Channel::window_locked(const Waiter& waiter) const {
  if (spin_budget_.limit_ns() == 0 || waiter.request == nullptr) return std::nullopt;
  const InFlight& request = *waiter.request;
  if (request.is_over() || request.expected.count() == 0 || shares_cpu_with_peer()) {
    return std::nullopt;
  }
  return request.lane->forecast.window(request.submitted_at, request.expected);
}

bool Channel::look_for(std::unique_lock<std::mutex>& lock, Waiter& waiter,
                       std::chrono::nanoseconds duration, const auto& done) {
  StayAwake awake(static_cast<std::uint64_t>(duration.count()));
  bool goes_on = true;
  while (!done() && goes_on) {
    lock.unlock();
    goes_on = awake.goes_on();
    lock.lock();
    collect_for_locked(&waiter);
  }
  return done() && !awake.lost_cpu();
}

void Channel::expect_answer_locked(InFlight& request) {
  const Lane& lane = *request.lane;
  request.expected =
      lane.expected_execution(request.plan ? request.plan->bucket : lane.last_bucket);
  request.submitted_at = Clock::now();
}

void Channel::learn_locked(Lane& lane, const InFlight& request, const CompletionEntry& entry) {
  if (entry.status != static_cast<std::uint32_t>(StatusCode::kOk)) return;
  lane.last_bucket = entry.bucket;
  if (request.expected.count() == 0) return;
  const Clock::time_point finished{std::chrono::nanoseconds(entry.finished_ns)};
  // Another clock's time, in a time namespace, teaches nothing.
  if (finished < request.submitted_at || finished > Clock::now() ||
      std::chrono::nanoseconds(entry.execute_ns) > finished - request.submitted_at) {
    return;
  }
  lane.forecast.note_answer(request.submitted_at, request.expected,
                            std::chrono::nanoseconds(entry.execute_ns), finished);
}

void Channel::collect() {
  const std::lock_guard lock(mutex_);
  collect_for_locked(nullptr);
}

void Channel::collect_for_locked(const Waiter* waiter) {
  if (is_closed()) return;
  collector_ = waiter;
  completed_for_others_ = false;
  collect_locked();
  collector_ = nullptr;
  if (completed_for_others_ && poll_set_ != nullptr) poll_set_->raise();
}

bool Channel::complete_locked(Lane& lane, const CompletionEntry& entry,
                              std::uint64_t output_bytes) {
  const auto slot = static_cast<std::uint32_t>(entry.user_data);
  if (slot >= lane.slots.size()) {
    close_locked(damaged(lane, "it answers slot " + std::to_string(slot) + " of " +
                                   std::to_string(lane.slots.size())),
                 Ending::kAsStated);
    return false;
  }
  InFlight& request = lane.slots[slot];
  if (!request.is_in_flight(entry.user_data)) {
    close_locked(damaged(lane, "it answers a request that is not in flight"), Ending::kAsStated);
    return false;
  }
  if (entry.status == static_cast<std::uint32_t>(StatusCode::kOk)) {
    const Status status = check_success_entry(lane.model(), entry, output_bytes);
    if (!status.ok()) {
      close_locked(status, Ending::kAsStated);
      return false;
    }
  }
  if (request.state.load(std::memory_order_relaxed) == SlotState::kAbandoned) {
    finish_abandoned_locked(request);
    return true;
  }
  learn_locked(lane, request, entry);
  request.completion = entry;
  request.output_bytes = output_bytes;
  finish_locked(request, SlotState::kDone);
  return true;
}

void Channel::finish_locked(InFlight& request, SlotState state) {
  request.state.store(state, std::memory_order_release);
  // Whoever waits for its session does not take the answer.
  if (collector_ == nullptr || collector_->request != &request || !collector_->takes_answer) {
    completed_for_others_ = true;
  }
  wake_waiters_of_locked(request);
}

void Channel::finish_abandoned_locked(InFlight& request) {
  free_locked(request);
  wake_waiters_of_locked(request);
}

void Channel::wake_waiters_of_locked(const InFlight& request) {
  for (Waiter* waiter : waiters_) {
    if (waiter->request == &request) waiter->wake.notify_one();
  }
  if (leader_ != nullptr && leader_ != collector_ && leader_->request == &request) interrupt();
}

void Channel::free_locked(InFlight& request) {
  Lane& lane = *request.lane;
  request.state.store(SlotState::kFree, std::memory_order_relaxed);
  lane.free_slots.push_back(request.slot);
  // All of them: one that is just giving up must not keep the news to itself.
  for (Waiter* waiter : waiters_) {
    if (waiter->lane_for_slot == &lane) waiter->wake.notify_one();
  }
  if (leader_ != nullptr && leader_ != collector_ && leader_->lane_for_slot == &lane) interrupt();
}

void Channel::release(InFlight& request) {
  // The last reference to the lane must go without the mutex, which the lane's end needs.
  const std::shared_ptr<Lane> lane = std::move(request.keep_alive);
  request.plan.reset();
  request.session.reset();
  const std::lock_guard lock(mutex_);
  if (request.state.load(std::memory_order_relaxed) == SlotState::kSubmitted) {
    request.state.store(SlotState::kAbandoned, std::memory_order_relaxed);
  } else {
    free_locked(request);
  }
}

std::size_t Channel::free_slot_count(Lane& lane) {
  const std::lock_guard lock(mutex_);
  collect_for_locked(nullptr);
  return lane.free_slots.size();
}

void Channel::remember_plan(InFlight& request, std::optional<Plan> plan) {
  const std::lock_guard lock(mutex_);
  if (plan) {
    request.lane->plans.insert(request.signature, std::move(*plan));
  } else {
    request.lane->plans.erase(request.signature);
  }
}

std::shared_ptr<const Plan> Channel::find_plan(Lane& lane,
                                               std::span<const TensorSignature> inputs) {
  const std::lock_guard lock(mutex_);
  return lane.plans.find(inputs);
}

int Channel::control_fd() const {
  const auto connection = connection_.lock();
  return connection == nullptr ? -1 : connection->fd();
}

void Channel::look_at_control() {
  if (const auto connection = connection_.lock()) connection->pump();
}

std::uint64_t Channel::deadline_ns(const InFlight& request) {
  if (!request.deadline) return 0;
  const auto since_boot = request.deadline->time_since_epoch();
  const auto count = std::chrono::duration_cast<std::chrono::nanoseconds>(since_boot).count();
  // A time before the clock's beginning is over, too; 0 would mean none.
  return count > 0 ? static_cast<std::uint64_t>(count) : 1;
}

}  // namespace bucketd::internal
