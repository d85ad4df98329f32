#include "daemon/supervisor/session_table.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "common/channel_layout.h"
#include "daemon/link/session_record.h"

namespace bucketd::supervisor {
namespace {

std::string random_id() {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    std::abort();  // an id that can be guessed would hand state to strangers
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string id;
  for (const unsigned char byte : bytes) {
    id += kDigits[byte >> 4];
    id += kDigits[byte & 15];
  }
  return id;
}

struct StatePlan {
  std::vector<std::uint64_t> offsets;
  std::uint64_t byte_size = 0;
};

// Where each state lies in an arena; nothing when the sum overflows.
std::optional<StatePlan> plan_states(const std::vector<StateSpec>& states) {
  StatePlan plan;
  for (const StateSpec& state : states) {
    const std::optional<std::uint64_t> bytes = state.shape.byte_size(state.dtype);
    if (!bytes) return std::nullopt;
    const std::optional<std::uint64_t> aligned = align_up(*bytes, kTensorAlignment);
    plan.offsets.push_back(plan.byte_size);
    if (!aligned || __builtin_add_overflow(plan.byte_size, *aligned, &plan.byte_size) ||
        plan.byte_size > kMaxSlotBytes) {
      return std::nullopt;
    }
  }
  return plan;
}

}  // namespace

SessionTable::SessionTable(asio::io_context& context, const SessionsConfiguration& limits,
                           UserAccounts& accounts, SlotLookup slot_of, Refusal refusal)
    : limits_(limits),
      accounts_(accounts),
      slot_of_(std::move(slot_of)),
      refusal_(std::move(refusal)),
      timer_(context) {}

Session* SessionTable::find(std::uint64_t handle) {
  const auto found = sessions_.find(handle);
  return found == sessions_.end() ? nullptr : &found->second;
}

bool SessionTable::may_operate(const SessionAsker& asker, const Session& session) {
  return session.is_shared ? asker.is_admin : asker.uid == session.uid;
}

Session* SessionTable::find_by_id(const SessionAsker& asker, const std::string& id) {
  const auto found = handles_.find(id);
  Session* session = found == handles_.end() ? nullptr : find(found->second);
  return session != nullptr && may_operate(asker, *session) ? session : nullptr;
}

Status SessionTable::no_session(const SessionAsker& asker, const std::string& id) const {
  return ended_.reason(asker.uid, id);
}

SessionOffer SessionTable::offer_of(const Session& session) {
  return {session.id, session.handle, session.model, session.state_bytes};
}

bool SessionTable::is_idle(const Session& session) {
  return !session.is_of_model && !session.is_closing && session.tasks.empty() &&
         std::none_of(session.bindings.begin(), session.bindings.end(),
                      [](const auto& item) { return item.second.is_wanted; });
}

Result<StateMemory> SessionTable::allocate(uid_t uid, std::uint32_t worker, std::uint64_t bytes) {
  const std::optional<std::uint64_t> size = StateArenas::arena_bytes(bytes);
  if (!size) return error(StatusCode::kResourceExhausted, "the state is too large");
  Result<Charge> charge = accounts_.charge(uid, Resource::kStateBytes, *size);
  if (!charge) return error(charge.error());
  const Result<std::uint32_t> arena = arenas_.allocate(worker, *size);
  if (!arena) return error(arena.error());
  return StateMemory{*arena, std::move(*charge)};
}

Result<Session*> SessionTable::make(uid_t uid, const GenerationPtr& generation) {
  const std::string what = "cannot open a session of model '" + generation->name + "'";
  const std::vector<StateSpec>& states = generation->description->states;
  const std::optional<StatePlan> plan = plan_states(states);
  if (!plan) {
    return error(StatusCode::kResourceExhausted,
                 what + ": it holds more state than a session can have");
  }
  const std::uint64_t bytes = plan->byte_size + kSessionRecordBytes;
  make_room(uid, 1, StateArenas::arena_bytes(bytes).value_or(0));
  Result<Charge> session_charge = accounts_.charge(uid, Resource::kSessions, 1);
  if (!session_charge) return error(session_charge.error().with_context(what));
  Result<StateMemory> memory = allocate(uid, generation->spec.worker, bytes);
  if (!memory) return error(memory.error().with_context(what));
  return &add(uid, generation, plan->offsets, plan->byte_size, std::move(*memory),
              std::move(*session_charge));
}

Session& SessionTable::add(uid_t uid, const GenerationPtr& generation,
                           std::vector<std::uint64_t> offsets, std::uint64_t state_bytes,
                           StateMemory memory, Charge session_charge) {
  const std::uint64_t handle = next_handle_++;
  Session& session = sessions_[handle];
  session.id = random_id();
  session.handle = handle;
  session.uid = uid;
  session.model = generation->name;
  session.generation = generation;
  session.states = generation->description->states;
  session.offsets = std::move(offsets);
  session.state_bytes = state_bytes;
  session.memory = std::move(memory);
  session.session_charge = std::move(session_charge);
  session.created = Clock::now();
  session.used = session.created;
  handles_[session.id] = handle;
  return session;
}

void SessionTable::open(const SessionAsker& asker, const GenerationPtr& generation, Opened opened) {
  const std::string model = "model '" + generation->name + "'";
  if (generation->description->states.empty()) {
    return opened(error(StatusCode::kFailedPrecondition,
                        model + " holds no state; it takes requests without a session"));
  }
  if (generation->spec.state_scope == StateScope::kModel) {
    return opened(error(StatusCode::kFailedPrecondition,
                        model + " has 'state_scope: model': its requests use the model's own "
                                "state, without a session"));
  }
  if (!slot_of_(generation->spec.worker).is_ready()) {
    return opened(error(StatusCode::kUnavailable, "the worker of " + model + " is away"));
  }
  if (const Status status = check_under_way(asker.uid); !status.ok()) return opened(error(status));
  const Result<Session*> session = make(asker.uid, generation);
  if (!session) return opened(error(session.error()));
  want(**session, asker.connection_id, std::move(opened));
}

void SessionTable::open_of_model(const SessionAsker& asker, const GenerationPtr& generation,
                                 Opened opened) {
  const bool is_shared = generation->spec.share_across_users;
  Session* session = nullptr;
  for (auto& [handle, candidate] : sessions_) {
    if (candidate.is_of_model && !candidate.is_closing && candidate.model == generation->name &&
        (is_shared || candidate.uid == asker.uid)) {
      session = &candidate;
    }
  }
  if (session == nullptr) {
    if (!slot_of_(generation->spec.worker).is_ready()) {
      return opened(error(StatusCode::kUnavailable, "the worker is away"));
    }
    // Nobody's: on the daemon's own account.
    const Result<Session*> made = make(is_shared ? ::geteuid() : asker.uid, generation);
    if (!made) return opened(error(made.error()));
    session = *made;
    session->is_of_model = true;
    session->is_shared = is_shared;
  }
  if (session->torn) return opened(error(*session->torn));
  want(*session, asker.connection_id, std::move(opened));
}

void SessionTable::resume(const SessionAsker& asker, const std::string& id,
                          const std::string& model, Opened opened) {
  Session* session = find_by_id(asker, id);
  if (session == nullptr) return opened(error(no_session(asker, id)));
  if (!model.empty() && session->model != model) {
    return opened(error(StatusCode::kInvalidArgument, "the session is of model '" + session->model +
                                                          "', not of model '" + model + "'"));
  }
  if (session->lost) return opened(error(*session->lost));
  if (session->torn) return opened(error(*session->torn));
  const auto has_it = [&](const auto& item) {
    return item.second.is_wanted && item.first != kOwnConnection;
  };
  const auto binding = session->bindings.find(asker.connection_id);
  if (binding != session->bindings.end() && binding->second.is_wanted &&
      binding->second.state == SessionBinding::State::kBound) {
    return opened(offer_of(*session));
  }
  const bool is_own = binding != session->bindings.end() && binding->second.is_wanted;
  if (!is_own && !session->is_of_model &&
      std::any_of(session->bindings.begin(), session->bindings.end(), has_it)) {
    return opened(error(StatusCode::kFailedPrecondition,
                        "the session is in use by another connection of this user"));
  }
  if (const Status status = check_under_way(session->uid); !status.ok()) {
    return opened(error(status));
  }
  want(*session, asker.connection_id, std::move(opened));
}

void SessionTable::give_up(const SessionAsker& asker, const std::string& id, Closed given_up) {
  Session* session = find_by_id(asker, id);
  if (session == nullptr) return given_up(no_session(asker, id));
  if (session->is_of_model) {
    return given_up(Status(StatusCode::kFailedPrecondition,
                           "the session is the state of model '" + session->model +
                               "' ('state_scope: model'): it stays as long as the model does, and "
                               "is not given up"));
  }
  const auto binding = session->bindings.find(asker.connection_id);
  const bool is_known = binding != session->bindings.end();
  // Asked again meanwhile: who was not answered in time, perhaps.
  if (is_known && !binding->second.is_wanted && !binding->second.giving_up.empty()) {
    binding->second.giving_up.push_back(std::move(given_up));
    return;
  }
  if (!is_known || !binding->second.is_wanted) {
    return given_up(
        Status(StatusCode::kFailedPrecondition, "this connection does not have the session open"));
  }
  binding->second.is_wanted = false;
  binding->second.giving_up.push_back(std::move(given_up));
  session->used = Clock::now();
  schedule(session->used + limits_.idle_timeout);
  const std::uint64_t handle = session->handle;
  answer(binding->second,
         error(StatusCode::kCancelled, "the session was given up before it was bound"));
  advance(handle);
}

void SessionTable::close(const SessionAsker& asker, const std::string& id, Closed closed) {
  Session* session = find_by_id(asker, id);
  if (session == nullptr) return closed(no_session(asker, id));
  if (session->is_of_model) {
    return closed(Status(StatusCode::kFailedPrecondition,
                         "the session is the state of model '" + session->model +
                             "' and ends with it; reset it instead"));
  }
  session->closing.push_back(std::move(closed));
  end(*session, Status(StatusCode::kNotFound, "the session was closed"));
}

SessionTable::Activity SessionTable::activity_of(const Session& session) const {
  std::array<std::uint64_t, 2> read{};  // SessionRecord's fields, in their order
  static_assert(offsetof(SessionRecord, requests) == 0 &&
                offsetof(SessionRecord, last_request_ns) == sizeof(std::uint64_t));
  const Status status = arenas_.read(session.memory.arena_id, session.state_bytes,
                                     std::as_writable_bytes(std::span(read)));
  if (!status.ok()) return {0, session.used};
  // Not later than now, whatever the worker wrote. steady_clock is CLOCK_MONOTONIC.
  const auto now_ns =
      static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now().time_since_epoch()).count());
  const Clock::time_point last{std::chrono::nanoseconds(std::min(read[1], now_ns))};
  return {read[0], std::max(session.used, last)};
}

void SessionTable::for_each(const std::function<void(const Session&)>& visit) const {
  for (const auto& [handle, session] : sessions_) {
    if (!session.is_closing && session.is_initialised) visit(session);
  }
}

void SessionTable::connection_ended(std::uint64_t connection_id) {
  std::vector<std::uint64_t> touched;
  for (auto& item : sessions_) {
    Session& session = item.second;
    std::erase_if(session.tasks, [&](const SessionTask& task) {
      const bool is_first = &task == &session.tasks.front();
      return task.connection_id == connection_id && !(is_first && session.is_working);
    });
    if (!session.tasks.empty() && session.tasks.front().connection_id == connection_id) {
      session.tasks.front().connection_id = kOwnConnection;
      session.tasks.front().done = nullptr;
    }
    const auto own = session.bindings.find(kOwnConnection);
    const bool is_own_idle = own != session.bindings.end() && session.tasks.empty();
    if (is_own_idle) own->second.is_wanted = false;
    const auto binding = session.bindings.find(connection_id);
    if (binding == session.bindings.end()) {
      if (is_own_idle) touched.push_back(session.handle);
      continue;
    }
    binding->second.is_wanted = false;
    binding->second.waiting.clear();
    session.used = Clock::now();
    touched.push_back(session.handle);
  }
  schedule(Clock::now() + limits_.idle_timeout);
  for (const std::uint64_t handle : touched) {
    Session* session = find(handle);
    if (session == nullptr) continue;
    // A session whose id nobody was told is of no use.
    if (!session->is_initialised && !session->is_closing && !session->is_of_model) {
      end(*session, Status(StatusCode::kCancelled, "the connection ended"));
    } else {
      advance(handle);
    }
  }
}

}  // namespace bucketd::supervisor
