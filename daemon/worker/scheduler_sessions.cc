// The Scheduler's part for sessions: who has which bound, and operations on them.
#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "common/monotonic_clock.h"
#include "daemon/worker/scheduler.h"

namespace bucketd {

bool Scheduler::add_session(std::uint64_t connection_id, std::shared_ptr<Session> session,
                            GoneNotice gone) {
  const auto binding = std::make_shared<SessionBinding>(std::move(gone), std::move(session));
  const std::uint64_t handle = binding->session->handle;
  BoundSession bound{std::shared_ptr<Session>(binding, binding->session.get()),
                     binding->gone.flag()};
  const std::lock_guard lock(mutex_);
  if (!sessions_.emplace(SessionKey{connection_id, handle}, std::move(bound)).second) return false;
  // Entries of sessions that were forgotten while something of them ran.
  if (sessions_by_handle_.size() > 2 * sessions_.size() + 16) {
    std::erase_if(sessions_by_handle_, [](const auto& known) { return known.second.expired(); });
  }
  ++binding->session->binding_count;
  sessions_by_handle_[handle] = binding->session;
  return true;
}

std::shared_ptr<Session> Scheduler::find_shared_session(std::uint64_t handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_by_handle_.find(handle);
  return found != sessions_by_handle_.end() ? found->second.lock() : nullptr;
}

std::shared_ptr<Session> Scheduler::find_session(std::uint64_t connection_id,
                                                 std::uint64_t handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find({connection_id, handle});
  return found != sessions_.end() ? found->second.session : nullptr;
}

GoneNotice::Flag Scheduler::remove_session(std::uint64_t connection_id, std::uint64_t handle) {
  std::shared_ptr<Session> session;
  GoneNotice::Flag gone;
  std::vector<Job> jobs;
  std::vector<std::shared_ptr<SessionOperation>> operations;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find({connection_id, handle});
    if (found == sessions_.end()) return nullptr;
    session = std::move(found->second.session);
    gone = std::move(found->second.gone);
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
    operations = take_out_operations(connection_id, *session);
    forget(*session);
  }
  const Status cancelled(StatusCode::kCancelled,
                         "the session was closed before the request started");
  answer_all(jobs, cancelled);
  for (const auto& operation : operations) operation->answer(cancelled);
  return gone;
}

void Scheduler::remove_sessions_of(const LoadedModel& model) {
  std::vector<std::shared_ptr<Session>> removed;  // destroyed without the mutex
  const std::lock_guard lock(mutex_);
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    if (at->second.session->model.get() == &model) {
      forget(*at->second.session);
      removed.push_back(std::move(at->second.session));
      at = sessions_.erase(at);
    } else {
      ++at;
    }
  }
}

void Scheduler::forget(Session& session) {
  // Whoever binds the handle while something of the session still runs waits for that: one order.
  if (--session.binding_count == 0 && !session.order.is_busy) {
    sessions_by_handle_.erase(session.handle);
  }
}

void Scheduler::operate(const std::shared_ptr<SessionOperation>& operation) {
  Rousing rousing;
  Status refused;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find({operation->connection_id, operation->session->handle});
    if (is_draining_) {
      refused = Status(StatusCode::kUnavailable, "the worker takes nothing more");
    } else if (found == sessions_.end() || found->second.session != operation->session) {
      refused = Status(StatusCode::kCancelled, "the session was closed meanwhile");
    } else {
      look_into_rings_of(operation->connection_id);
      operation->client = queue_of_connection(operation->connection_id);
      operation->client->add_capacity(1);
      QueuedRequest& request = operation->queued;
      request.operation = operation.get();
      request.client = operation->client.get();
      request.session = operation->session;
      request.order = &operation->session->order;
      request.entry.priority = std::numeric_limits<decltype(request.entry.priority)>::max();
      request.taken_ns = monotonic_ns();
      operations_.push_back(operation);
      ++in_flight_;
      queue_.add(request);
      rousing = for_new_work();
    }
  }
  if (!refused.ok()) return operation->answer(refused);
  rouse(rousing);
}

std::vector<std::shared_ptr<SessionOperation>> Scheduler::take_out_operations(
    std::uint64_t connection_id, const Session& session) {
  std::vector<std::shared_ptr<SessionOperation>> taken;
  for (const auto& operation : operations_) {
    if (operation->connection_id == connection_id && operation->session.get() == &session &&
        operation->queued.is_queued) {
      taken.push_back(operation);
    }
  }
  for (const auto& operation : taken) {
    queue_.remove(operation->queued);
    operation->queued.session = nullptr;
    account_end(*operation);
  }
  return taken;
}

void Scheduler::account_end(SessionOperation& operation) {
  operation.client->remove_capacity(1);
  std::erase_if(operations_, [&](const auto& other) { return other.get() == &operation; });
  --in_flight_;
  if (is_draining_ && in_flight_ == 0) control_.notify();
}

void Scheduler::look_into_rings_of(std::uint64_t connection_id) {
  std::uint64_t now_ns = 0;
  for (const std::shared_ptr<RingChannel>& channel : ring_channels_) {
    if (channel->connection_id() == connection_id) look_into_lanes(*channel, now_ns);
  }
}

}  // namespace bucketd
