#include "daemon/supervisor/session_table.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <array>

#include "common/wire/model_wire.h"

namespace bucketd::supervisor {
namespace {

// Sessions of one user that a worker has been asked to bind or release. A worker answers in order:
// what one user asks of it, the others wait for.
constexpr std::size_t kMaxUnderWay = 128;

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

Status no_session() { return Status(StatusCode::kNotFound, "this user has no session of that id"); }

}  // namespace

SessionTable::SessionTable(asio::io_context& context, const LimitsConfiguration& limits,
                           UserAccounts& accounts, SlotLookup slot_of)
    : limits_(limits), accounts_(accounts), slot_of_(std::move(slot_of)), expiry_timer_(context) {}

SessionTable::Session* SessionTable::find(std::uint64_t handle) {
  const auto found = sessions_.find(handle);
  return found == sessions_.end() ? nullptr : &found->second;
}

SessionTable::Session* SessionTable::find_owned(uid_t uid, const std::string& id) {
  for (auto& [handle, session] : sessions_) {
    if (session.uid == uid && session.id == id && !session.is_closing) return &session;
  }
  return nullptr;
}

Status SessionTable::check_under_way(uid_t uid) const {
  const auto under_way = std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& item) {
    const Session& session = item.second;
    return session.uid == uid &&
           (session.state == State::kBinding || session.state == State::kReleasing);
  });
  if (static_cast<std::size_t>(under_way) < kMaxUnderWay) return Status();
  return Status(StatusCode::kUnavailable,
                std::to_string(under_way) +
                    " sessions of this user are being opened or closed, which is the limit; try "
                    "again when some of them are");
}

void SessionTable::open(std::uint64_t connection_id, uid_t uid, const GenerationPtr& generation,
                        Opened opened) {
  const std::string model_text = "model '" + generation->name + "'";
  const std::vector<StateSpec>& states = generation->description->states;
  if (states.empty()) {
    return opened(error(StatusCode::kFailedPrecondition,
                        model_text + " holds no state; it takes requests without a session"));
  }
  const std::optional<StatePlan> plan = plan_states(states);
  if (!plan) {
    return opened(error(StatusCode::kResourceExhausted,
                        model_text + " holds more state than a session can have"));
  }
  if (const Status status = check_under_way(uid); !status.ok()) return opened(error(status));
  Session session;
  Result<Charge> session_charge = accounts_.charge(uid, Resource::kSessions, 1);
  if (!session_charge) {
    return opened(
        error(session_charge.error().with_context("cannot open a session of " + model_text)));
  }
  Result<Charge> byte_charge =
      accounts_.charge(uid, Resource::kSharedBytes, StateArenas::size_class(plan->byte_size));
  if (!byte_charge) {
    return opened(
        error(byte_charge.error().with_context("cannot open a session of " + model_text)));
  }
  const Result<std::uint32_t> arena = arenas_.allocate(generation->spec.worker, plan->byte_size);
  if (!arena) return opened(error(arena.error()));
  session.id = random_id();
  session.handle = next_handle_++;
  session.uid = uid;
  session.model = generation->name;
  session.generation = generation;
  session.states = states;
  session.offsets = plan->offsets;
  session.arena_id = *arena;
  session.connection_id = connection_id;
  session.opened = std::move(opened);
  session.session_charge = std::move(*session_charge);
  session.byte_charge = std::move(*byte_charge);
  const std::uint64_t handle = session.handle;
  bind(sessions_.emplace(handle, std::move(session)).first->second);
}

void SessionTable::resume(std::uint64_t connection_id, uid_t uid, const std::string& id,
                          const std::string& model, Opened opened) {
  Session* session = find_owned(uid, id);
  if (session == nullptr || (!model.empty() && session->model != model)) {
    return opened(error(no_session()));
  }
  if (session->lost) return opened(error(*session->lost));
  if (session->connection_id == connection_id && session->state == State::kBound) {
    return opened(SessionOffer{session->id, session->handle});
  }
  if (session->connection_id != 0) {
    return opened(error(StatusCode::kFailedPrecondition,
                        "the session is in use by a connection of this user"));
  }
  if (session->state != State::kUnbound || !session->generation->is_on_worker) {
    return opened(error(StatusCode::kUnavailable, "model '" + session->model +
                                                      "' is away, or a request of the session "
                                                      "has not ended yet; try again later"));
  }
  if (const Status status = check_under_way(uid); !status.ok()) return opened(error(status));
  session->connection_id = connection_id;
  session->opened = std::move(opened);
  bind(*session);
}

void SessionTable::bind(Session& session) {
  WorkerSlot& slot = slot_of_(session.generation->spec.worker);
  const std::uint64_t handle = session.handle;
  if (!slot.is_ready()) return bound(handle, nullptr);
  session.state = State::kBinding;
  session.bound_connection_id = session.connection_id;
  arenas_.map(session.arena_id, slot);
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateBindSession(
            builder, session.connection_id, handle, session.generation->model_id, session.arena_id,
            builder.CreateVector(session.offsets), !session.is_initialised);
      },
      {}, [this, handle](const link::Message* message) { bound(handle, message); }, Due::kPromptly);
}

void SessionTable::bound(std::uint64_t handle, const link::Message* message) {
  Session* session = find(handle);
  if (session == nullptr) return;
  const Opened opened = std::exchange(session->opened, nullptr);
  if (message != nullptr && message->body_as_Acknowledged() != nullptr) {
    session->is_initialised = true;
    session->state = State::kBound;
    const SessionOffer offer{session->id, session->handle};
    // Its connection ended, or it was closed, meanwhile.
    if (session->connection_id == 0 || session->is_closing) unbind(*session);
    if (opened) opened(offer);
    return;
  }
  if (session->state == State::kBinding) session->state = State::kUnbound;
  const link::Refused* refused = message == nullptr ? nullptr : message->body_as_Refused();
  const Status reason =
      refused != nullptr
          ? wire::from_wire(refused->status())
          : Status(StatusCode::kUnavailable, "the worker of model '" + session->model + "' died");
  if (!session->is_initialised || session->is_closing) {
    erase(handle);
  } else if (opened) {
    session->connection_id = 0;
    session->idle_since = Clock::now();
  }
  if (opened) opened(error(reason));
}

void SessionTable::unbind(Session& session) {
  const std::uint64_t handle = session.handle;
  WorkerSlot& slot = slot_of_(session.generation->spec.worker);
  if (session.state == State::kBinding || session.state == State::kReleasing) return;
  if (session.state == State::kUnbound || slot.process() == nullptr) {
    session.state = State::kUnbound;
    if (session.is_closing) erase(handle);
    return;
  }
  session.state = State::kReleasing;
  // The connection under whose id the worker knows it may be over already.
  const std::uint64_t connection_id = session.bound_connection_id;
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateReleaseSession(builder, connection_id, handle);
      },
      {},
      [this, handle](const link::Message* message) {
        Session* released = find(handle);
        if (message == nullptr || released == nullptr) return;  // worker_died() saw to it
        released->state = State::kUnbound;
        if (released->is_closing) erase(handle);
      });
}

void SessionTable::close(uid_t uid, const std::string& id, Closed closed) {
  Session* session = find_owned(uid, id);
  if (session == nullptr) return closed(no_session());
  session->is_closing = true;
  session->closing.push_back(std::move(closed));
  unbind(*session);
}

void SessionTable::erase(std::uint64_t handle) {
  const auto found = sessions_.find(handle);
  if (found == sessions_.end()) return;
  arenas_.release(found->second.arena_id);
  std::vector<Closed> closing;
  closing.swap(found->second.closing);
  sessions_.erase(found);
  for (const Closed& closed : closing) closed(Status());
}

void SessionTable::connection_ended(std::uint64_t connection_id) {
  for (auto& [handle, session] : sessions_) {
    if (session.connection_id != connection_id) continue;
    session.connection_id = 0;
    session.idle_since = Clock::now();
    // A session whose id nobody was told is of no use.
    if (std::exchange(session.opened, nullptr)) session.is_closing = !session.is_initialised;
  }
  // Apart from the walk above, since unbinding may erase.
  std::vector<std::uint64_t> handles;
  for (const auto& [handle, session] : sessions_) {
    if (session.connection_id == 0 && session.state == State::kBound) handles.push_back(handle);
  }
  for (const std::uint64_t handle : handles) {
    if (Session* session = find(handle)) unbind(*session);
  }
  schedule_expiry();
}

void SessionTable::worker_died(std::uint32_t worker, const std::vector<ChannelEnd>& ends) {
  for (const ChannelEnd& end : ends) {
    for (const ExecutingAtDeath& request : end.executing) {
      Session* session = find(request.session_handle);
      if (session == nullptr || session->bound_connection_id != end.connection_id ||
          session->generation->model_id != request.model_id) {
        continue;
      }
      session->lost = Status(StatusCode::kFailedPrecondition,
                             "the session is torn: its worker died while it was executing a "
                             "request of it, and model '" +
                                 session->model + "' may have left its state half written");
      spdlog::warn("a session of uid {} on model '{}' is torn", session->uid, session->model);
    }
  }
  arenas_.worker_lost(worker);
  std::vector<std::uint64_t> closing;
  for (auto& [handle, session] : sessions_) {
    if (session.generation->spec.worker != worker) continue;
    if (session.state != State::kBinding) session.state = State::kUnbound;
    if (session.is_closing && session.state == State::kUnbound) closing.push_back(handle);
  }
  for (const std::uint64_t handle : closing) erase(handle);
}

void SessionTable::model_changed(const std::string& model, const GenerationPtr& serving,
                                 const std::function<bool(std::uint32_t)>& is_known) {
  std::vector<std::uint64_t> handles;
  for (const auto& [handle, session] : sessions_) {
    if (session.model == model) handles.push_back(handle);
  }
  for (const std::uint64_t handle : handles) {
    Session* session = find(handle);
    if (session == nullptr) continue;
    const bool is_replaced = session->generation != serving;
    if (is_replaced && is_known(session->generation->model_id)) continue;  // not unloaded yet
    if (is_replaced) {
      if (session->state != State::kBinding) session->state = State::kUnbound;
      if (serving == nullptr) {
        session->is_closing = true;
        unbind(*session);
        continue;
      }
      if (serving->description->states != session->states ||
          serving->spec.worker != session->generation->spec.worker) {
        session->lost = Status(StatusCode::kFailedPrecondition,
                               "model '" + model + "' was replaced by one with other states");
      }
      session->generation = serving;
    }
    if (session->state == State::kUnbound && session->connection_id != 0 && !session->lost &&
        !session->is_closing) {
      bind(*session);
    }
  }
}

void SessionTable::schedule_expiry() {
  if (is_expiry_scheduled_ || sessions_.empty()) return;
  is_expiry_scheduled_ = true;
  expiry_timer_.expires_after(
      std::max<Clock::duration>(limits_.session_idle / 4, std::chrono::milliseconds(100)));
  expiry_timer_.async_wait([this](boost::system::error_code failure) {
    is_expiry_scheduled_ = false;
    if (!failure) expire();
  });
}

void SessionTable::expire() {
  std::vector<std::uint64_t> expired;
  for (const auto& [handle, session] : sessions_) {
    if (session.connection_id == 0 && Clock::now() - session.idle_since >= limits_.session_idle) {
      expired.push_back(handle);
    }
  }
  for (const std::uint64_t handle : expired) {
    Session* session = find(handle);
    if (session == nullptr) continue;
    session->is_closing = true;
    unbind(*session);
  }
  schedule_expiry();
}

}  // namespace bucketd::supervisor
