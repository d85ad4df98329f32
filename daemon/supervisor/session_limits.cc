// SessionTable's limits: how many, how large, how long.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "daemon/supervisor/session_table.h"

namespace bucketd::supervisor {
namespace {

// Sessions of one user that a worker has been asked to bind or release, and tasks of them. A worker
// answers in order: what one user asks of it, the others wait for.
constexpr std::size_t kMaxUnderWay = 128;

std::string seconds_text(Clock::duration duration) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return ms < 10000 ? std::to_string(ms) + " ms" : std::to_string(ms / 1000) + " s";
}

Status away(const Session& session) {
  return Status(StatusCode::kUnavailable, "model '" + session.model +
                                              "' is away, or a request of the session has not "
                                              "ended yet; try again later");
}

}  // namespace

Status SessionTable::check_under_way(uid_t uid) const {
  std::size_t under_way = 0;
  for (const auto& [handle, session] : sessions_) {
    if (session.uid != uid) continue;
    under_way += session.tasks.size();
    for (const auto& [connection_id, binding] : session.bindings) {
      const bool is_asked = binding.state == SessionBinding::State::kBinding ||
                            binding.state == SessionBinding::State::kReleasing;
      under_way += std::max<std::size_t>(binding.waiting.size(), is_asked ? 1 : 0);
    }
  }
  if (under_way < kMaxUnderWay) return Status();
  return Status(StatusCode::kUnavailable,
                std::to_string(under_way) +
                    " sessions of this user are being opened, closed or operated on, which is the "
                    "limit; try again when some of that is done");
}

void SessionTable::make_room(uid_t uid, std::uint64_t sessions, std::uint64_t bytes) {
  if (limits_.when_full != WhenFull::kEvictLongestIdle) return;
  const auto make_room_of = [&](Resource resource, std::uint64_t amount) {
    const auto shortage = accounts_.shortage(uid, resource, amount);
    if (!shortage) return false;
    std::vector<const Session*> idle;
    for (const auto& [handle, session] : sessions_) {
      // Of those that a worker still has, nothing would be free at once.
      if (is_idle(session) && session.bindings.empty() &&
          (shortage->is_total || session.uid == uid)) {
        idle.push_back(&session);
      }
    }
    std::stable_sort(idle.begin(), idle.end(),
                     [](const Session* a, const Session* b) { return a->used < b->used; });
    std::vector<std::uint64_t> evicted;
    std::uint64_t gained = 0;
    for (const Session* session : idle) {
      if (gained >= shortage->missing) break;
      gained += resource == Resource::kSessions
                    ? 1
                    : session->memory.bytes.amount() +
                          (session->checkpoint ? session->checkpoint->bytes.amount() : 0);
      evicted.push_back(session->handle);
    }
    if (gained < shortage->missing) return false;  // nobody loses a session for nothing
    for (const std::uint64_t handle : evicted) {
      Session& session = *find(handle);
      spdlog::info("a session of uid {} on model '{}' is evicted", session.uid, session.model);
      end(session,
          Status(StatusCode::kResourceExhausted,
                 "the session was evicted after " + seconds_text(Clock::now() - session.used) +
                     " without use, to make room for another ('sessions.when_full')"));
    }
    return true;
  };
  // Once for the user's limit, once for the total.
  for (const auto& [resource, amount] :
       {std::pair(Resource::kSessions, sessions), std::pair(Resource::kStateBytes, bytes)}) {
    if (amount != 0 && make_room_of(resource, amount)) make_room_of(resource, amount);
  }
}

void SessionTable::schedule(Clock::time_point at) {
  if (at >= timer_at_) return;
  timer_at_ = at;
  timer_.expires_at(at);
  timer_.async_wait([this](boost::system::error_code failure) {
    if (failure) return;
    timer_at_ = Clock::time_point::max();
    look_at_time();
  });
}

// Ends what nobody has used for too long; answers who has waited for too long.
void SessionTable::look_at_time() {
  const Clock::time_point now = Clock::now();
  Clock::time_point next = Clock::time_point::max();
  std::vector<std::uint64_t> expired;
  std::vector<std::uint64_t> late;
  for (auto& [handle, session] : sessions_) {
    if (is_idle(session)) {
      const Clock::time_point until = session.used + limits_.idle_timeout;
      if (until <= now) {
        expired.push_back(handle);
      } else {
        next = std::min(next, until);
      }
      continue;
    }
    Clock::time_point until = Clock::time_point::max();
    for (const auto& [connection_id, binding] : session.bindings) {
      for (const auto& [deadline, opened] : binding.waiting) until = std::min(until, deadline);
    }
    if (!session.tasks.empty() && !session.is_working) {
      until = std::min(until, session.tasks.front().begin_until);
    }
    if (until <= now) {
      late.push_back(handle);
    } else {
      next = std::min(next, until);
    }
  }
  for (const std::uint64_t handle : expired) {
    if (Session* session = find(handle)) {
      end(*session, Status(StatusCode::kNotFound, "the session ended after " +
                                                      seconds_text(limits_.idle_timeout) +
                                                      " without use ('sessions.idle_timeout_ms')"));
    }
  }
  for (const std::uint64_t handle : late) give_up_waiting(handle, now);
  if (!late.empty()) next = std::min(next, now + std::chrono::seconds(1));
  if (next != Clock::time_point::max()) schedule(next);
}

void SessionTable::give_up_waiting(std::uint64_t handle, Clock::time_point now) {
  Session* session = find(handle);
  if (session == nullptr) return;
  const Status reason = away(*session);
  std::vector<Opened> late;
  for (auto& [connection_id, binding] : session->bindings) {
    for (auto& [deadline, opened] : binding.waiting) {
      if (deadline <= now) late.push_back(std::move(opened));
    }
    const std::size_t count =
        std::erase_if(binding.waiting, [now](const auto& waiting) { return waiting.first <= now; });
    // Whoever is told that it did not work does not have it.
    if (count != 0 && binding.waiting.empty()) binding.is_wanted = false;
  }
  session->used = now;
  if (!session->is_initialised) {
    end(*session, reason);
  } else if (!session->tasks.empty() && !session->is_working &&
             session->tasks.front().begin_until <= now) {
    finish_task(*session, reason);
  } else {
    advance(handle);
  }
  for (const Opened& opened : late) opened(error(reason));
}

}  // namespace bucketd::supervisor
