#include "daemon/supervisor/control_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "daemon/supervisor/control_message.h"

namespace bucketd::supervisor {
namespace {

// Requests of one connection that wait at the same time.
constexpr std::size_t kMaxPendingPerConnection = 128;
// How long a lane may take to open once its model is ready: the worker's control thread may be
// loading another model.
constexpr std::chrono::seconds kOpeningTime{10};
// Until a lane is tried again that could not be opened just then; doubles up to the second. Mostly
// it is tried earlier, since a worker has answered or a model has changed.
constexpr std::chrono::milliseconds kRetryDelay{10};
constexpr std::chrono::milliseconds kRetryDelayMax{320};

}  // namespace

ControlService::ControlService(asio::io_context& context, Daemon& daemon, ModelRegistry& registry,
                               ChannelBroker& broker, SessionTable& sessions,
                               CrashAccounts& crash_accounts)
    : context_(context),
      daemon_(daemon),
      registry_(registry),
      broker_(broker),
      sessions_(sessions),
      crash_accounts_(crash_accounts) {}

void ControlService::handle(ControlConnection& connection, const wire::Message& message) {
  const std::uint64_t id = message.request_id();
  switch (message.body_type()) {
    case wire::Body::Hello:
      return hello(connection, id, *message.body_as_Hello());
    case wire::Body::ListModels:
      return list_models(connection, id);
    case wire::Body::DescribeModel:
      return describe(connection, id, text_of(message.body_as_DescribeModel()->model()));
    case wire::Body::OpenLane:
      return open_lane(connection, id, *message.body_as_OpenLane());
    case wire::Body::CloseLane: {
      const wire::CloseLane& request = *message.body_as_CloseLane();
      const Status status =
          broker_.close_lane(connection.id(), request.channel_id(), request.lane_id(), slot_of());
      return connection.send(status.ok() ? ok_message(id) : error_message(id, status));
    }
    case wire::Body::OpenSession:
      return open_session(connection, id, *message.body_as_OpenSession());
    case wire::Body::CloseSession:
      return close_session(connection, id, *message.body_as_CloseSession());
    case wire::Body::OperateSession:
      return operate_session(connection, id, *message.body_as_OperateSession());
    case wire::Body::ForkSession:
      return fork_session(connection, id, *message.body_as_ForkSession());
    case wire::Body::ReadState:
      return read_state(connection, id, *message.body_as_ReadState());
    case wire::Body::ListSessions:
      return list_sessions(connection, id, *message.body_as_ListSessions());
    case wire::Body::GetStatus:
      return report_status(connection, id);
    case wire::Body::LoadModel:
      return load_model(connection, id, *message.body_as_LoadModel());
    case wire::Body::UnloadModel:
      return unload_model(connection, id, text_of(message.body_as_UnloadModel()->model()));
    default:
      return connection.send(
          error_message(id, Status(StatusCode::kUnimplemented,
                                   "this daemon does not know requests of kind " +
                                       std::to_string(static_cast<int>(message.body_type())))));
  }
}

SlotLookup ControlService::slot_of() {
  return [this](std::uint32_t worker) -> WorkerSlot& { return daemon_.worker_slot(worker); };
}

bool ControlService::may_wait(ControlConnection& connection, std::uint64_t request_id) {
  const auto waiting = std::count_if(pending_.begin(), pending_.end(), [&](const auto& item) {
    return item.second.connection_id == connection.id();
  });
  if (static_cast<std::size_t>(waiting) < kMaxPendingPerConnection) return true;
  connection.send(error_message(
      request_id, Status(StatusCode::kResourceExhausted,
                         "this connection has " + std::to_string(kMaxPendingPerConnection) +
                             " requests that wait for a model; that is the limit")));
  return false;
}

std::uint64_t ControlService::add_pending(ControlConnection& connection, std::uint64_t request_id,
                                          Kind kind, std::uint32_t wait_ms) {
  const std::uint64_t id = next_pending_id_++;
  Pending& pending = pending_[id];
  pending.kind = kind;
  pending.connection = connection.weak_from_this();
  pending.connection_id = connection.id();
  pending.request_id = request_id;
  pending.wait_until = Clock::now() + std::chrono::milliseconds(wait_ms);
  pending.deadline = pending.wait_until;
  pending.retry_delay = kRetryDelay;
  pending.uid = connection.peer().uid;
  pending.timer = std::make_unique<asio::steady_timer>(context_);
  return id;
}

ControlService::Pending* ControlService::find(std::uint64_t pending_id) {
  const auto found = pending_.find(pending_id);
  return found == pending_.end() ? nullptr : &found->second;
}

void ControlService::arm_timer(std::uint64_t pending_id, Clock::time_point retry_at) {
  Pending* pending = find(pending_id);
  if (pending == nullptr) return;
  pending->timer->expires_at(std::min(pending->deadline, retry_at));
  pending->timer->async_wait([this, pending_id](boost::system::error_code failure) {
    const Pending* late = find(pending_id);
    if (failure || late == nullptr) return;
    if (Clock::now() >= late->deadline) return out_of_time(pending_id);
    // To be tried again; or the deadline has moved after this handler was queued.
    arm_timer(pending_id);
    try_open(pending_id);
  });
}

void ControlService::out_of_time(std::uint64_t pending_id) {
  const Pending* pending = find(pending_id);
  if (pending == nullptr) return;
  const ModelRecord* record = registry_.find(pending->model);
  if (pending->kind == Kind::kOpenLane && record == nullptr) {
    return answer_error(pending_id, registry_.not_found(pending->model));
  }
  std::string why = " is still being loaded";
  if (pending->is_opening || pending->is_blocked) {
    why = " is ready, but its worker is busy";
  } else if (record != nullptr && record->serving != nullptr) {
    why = " is away: its worker is starting again";
  }
  answer_error(pending_id, Status(StatusCode::kUnavailable,
                                  "model '" + pending->model + "'" + why + "; try again later"));
}

void ControlService::answer_error(std::uint64_t pending_id, const Status& status) {
  const auto found = pending_.find(pending_id);
  if (found == pending_.end()) return;
  const std::shared_ptr<ControlConnection> connection = found->second.connection.lock();
  const std::uint64_t request_id = found->second.request_id;
  pending_.erase(found);
  if (connection) connection->send(error_message(request_id, status));
}

void ControlService::open_lane(ControlConnection& connection, std::uint64_t request_id,
                               const wire::OpenLane& request) {
  if (!may_wait(connection, request_id)) return;
  const std::string model = text_of(request.model());
  // Such a name is not kept: it may be as long as a message.
  if (!is_model_name(model)) {
    return connection.send(error_message(request_id, registry_.not_found(model)));
  }
  if (request.transport() != wire::Transport::kRing &&
      request.transport() != wire::Transport::kStream) {
    return connection.send(error_message(
        request_id, Status(StatusCode::kUnimplemented,
                           "this daemon does not know transport " +
                               std::to_string(static_cast<int>(request.transport())))));
  }
  const std::uint64_t id = add_pending(connection, request_id, Kind::kOpenLane, request.wait_ms());
  Pending& pending = *find(id);
  pending.model = model;
  pending.transport = static_cast<link::Transport>(request.transport());
  pending.slots = request.slots();
  arm_timer(id);
  try_open(id);
}

Status ControlService::refusal(const Pending& pending, const ControlConnection& connection) {
  if (daemon_.is_draining()) {
    return Status(StatusCode::kUnavailable,
                  "the daemon is draining: it takes no new work and will end");
  }
  const bool out_of_time = Clock::now() >= pending.deadline;
  const ModelRecord* record = registry_.find(pending.model);
  if (record == nullptr) {
    if (registry_.has_unnamed_candidate() && !out_of_time) return Status();
    return registry_.not_found(pending.model);
  }
  if (Status refused = crash_accounts_.check(connection.peer().uid, pending.model, Clock::now());
      !refused.ok()) {
    return refused;
  }
  switch (record->state) {
    case ModelState::kFailed:
    case ModelState::kQuarantined:
      return Status(
          StatusCode::kFailedPrecondition,
          connection.is_admin() && !record->admin_detail.empty()
              ? "model '" + pending.model + "': " + record->admin_detail
              : record->reason.with_context("model '" + pending.model + "' cannot be used")
                    .message());
    case ModelState::kUnloading:
      return Status(StatusCode::kFailedPrecondition,
                    "model '" + pending.model + "' is being unloaded");
    case ModelState::kLoading:
    case ModelState::kReady:
      break;
  }
  return Status();
}

void ControlService::try_open(std::uint64_t pending_id) {
  Pending* pending = find(pending_id);
  if (pending == nullptr || pending->kind != Kind::kOpenLane || pending->is_opening) return;
  const std::shared_ptr<ControlConnection> connection = pending->connection.lock();
  if (connection == nullptr) return;
  if (const Status refused = refusal(*pending, *connection); !refused.ok()) {
    return answer_error(pending_id, refused);
  }
  const ModelRecord* record = registry_.find(pending->model);
  const bool is_ready = record != nullptr && record->state == ModelState::kReady &&
                        daemon_.worker_slot(record->serving->spec.worker).is_ready();
  if (!is_ready) {
    if (Clock::now() >= pending->deadline) out_of_time(pending_id);
    return;
  }
  pending->is_opening = true;
  pending->is_blocked = false;
  // Counted from the first time, however often it has to be tried again.
  if (pending->opening_until == Clock::time_point()) {
    pending->opening_until = std::max(pending->wait_until, Clock::now() + kOpeningTime);
  }
  pending->deadline = pending->opening_until;
  arm_timer(pending_id);
  const GenerationPtr generation = record->serving;
  if (generation->spec.state_scope != StateScope::kModel ||
      generation->description->states.empty()) {
    return open_with_session(pending_id, generation, 0);
  }
  // The session first: it is there when the lane's first request comes.
  const SessionAsker asker{connection->id(), connection->peer().uid, connection->is_admin()};
  sessions_.open_of_model(
      asker, generation, [this, pending_id, generation](const Result<SessionOffer>& offer) {
        const Pending* opening = find(pending_id);
        if (opening == nullptr) return;  // out of time
        if (offer) return open_with_session(pending_id, generation, offer->handle);
        const bool is_passing = offer.error().code() == StatusCode::kUnavailable;
        is_passing ? cannot_open_yet(pending_id, offer.error())
                   : answer_error(pending_id, offer.error());
      });
}

void ControlService::open_with_session(std::uint64_t pending_id, const GenerationPtr& generation,
                                       std::uint64_t default_session_handle) {
  Pending* pending = find(pending_id);
  pending->default_session_handle = default_session_handle;
  const LaneRequest request{pending->connection_id, pending->uid, generation, pending->transport,
                            pending->slots};
  WorkerSlot& slot = daemon_.worker_slot(generation->spec.worker);
  broker_.open_lane(slot, request,
                    [this, pending_id, connection_id = request.connection_id,
                     generation](Result<LaneOffer> offer) {
                      lane_opened(pending_id, connection_id, generation, std::move(offer));
                    });
}

void ControlService::lane_opened(std::uint64_t pending_id, std::uint64_t connection_id,
                                 const GenerationPtr& generation, Result<LaneOffer> offer) {
  Pending* pending = find(pending_id);
  if (!offer) {
    if (pending == nullptr) return;
    const bool is_passing = offer.error().code() == StatusCode::kUnavailable ||
                            offer.error().code() == StatusCode::kWouldBlock;
    if (!is_passing) return answer_error(pending_id, offer.error());
    return cannot_open_yet(pending_id, offer.error());
  }
  const std::shared_ptr<ControlConnection> connection =
      pending == nullptr ? nullptr : pending->connection.lock();
  if (connection == nullptr) {  // it was answered already: out of time
    broker_.take_back(connection_id, std::move(*offer), slot_of());
    return;
  }
  const std::uint64_t request_id = pending->request_id;
  const auto transport = static_cast<wire::Transport>(pending->transport);
  const std::uint64_t default_session_handle = pending->default_session_handle;
  pending_.erase(pending_id);
  daemon_.worker_slot(generation->spec.worker).watch_executions();
  connection->send(
      control_message(request_id,
                      [&](flatbuffers::FlatBufferBuilder& builder) {
                        const auto model = wire::to_wire(builder, *generation->description);
                        const wire::LaneLayout layout = wire::to_wire(offer->plan.layout);
                        return wire::CreateLaneOpened(
                            builder, offer->channel_id, offer->lane_id, offer->is_new_channel,
                            transport, offer->worker_incarnation, &layout,
                            offer->plan.max_request_bytes, model, default_session_handle);
                      }),
      std::move(offer->fds));
}

// The worker died, the model was replaced, or too much is under way.
void ControlService::cannot_open_yet(std::uint64_t pending_id, const Status& reason) {
  Pending& pending = *find(pending_id);
  pending.is_opening = false;
  pending.is_blocked = reason.code() == StatusCode::kWouldBlock;
  // Its model is ready, only its turn has not come; or the model is away: that is what the client
  // wants to wait for no longer than it said.
  pending.deadline = pending.is_blocked ? pending.opening_until : pending.wait_until;
  if (Clock::now() >= pending.deadline) return out_of_time(pending_id);
  arm_timer(pending_id, Clock::now() + pending.retry_delay);
  pending.retry_delay = std::min(2 * pending.retry_delay, kRetryDelayMax);
}

void ControlService::load_model(ControlConnection& connection, std::uint64_t request_id,
                                const wire::LoadModel& request) {
  if (!connection.is_admin()) {
    return connection.send(error_message(
        request_id, Status(StatusCode::kPermissionDenied,
                           "loading a model is for administrators (see 'access' in the "
                           "daemon's configuration)")));
  }
  if (!may_wait(connection, request_id)) return;
  const std::string path = text_of(request.path());
  const std::string name = text_of(request.name());
  spdlog::info("{} loads '{}'", connection.description(), path);
  const Result<GenerationPtr> generation = daemon_.load_model(path, name);
  if (!generation) return connection.send(error_message(request_id, generation.error()));
  const std::uint64_t id = add_pending(connection, request_id, Kind::kLoad, request.wait_ms());
  find(id)->model = (*generation)->name;
  find(id)->model_id = (*generation)->model_id;
  arm_timer(id);
}

void ControlService::unload_model(ControlConnection& connection, std::uint64_t request_id,
                                  const std::string& model) {
  if (!connection.is_admin()) {
    return connection.send(error_message(
        request_id, Status(StatusCode::kPermissionDenied,
                           "unloading a model is for administrators (see 'access' in the "
                           "daemon's configuration)")));
  }
  if (!may_wait(connection, request_id)) return;
  spdlog::info("{} unloads model '{}'", connection.description(), model);
  const Result<GenerationPtr> generation = daemon_.unload_model(model);
  if (!generation) return connection.send(error_message(request_id, generation.error()));
  if (*generation == nullptr) return connection.send(ok_message(request_id));
  const std::uint64_t id = add_pending(connection, request_id, Kind::kUnload, 0);
  find(id)->model = model;
  find(id)->model_id = (*generation)->model_id;
}

void ControlService::connection_ended(std::uint64_t connection_id) {
  std::erase_if(pending_,
                [&](const auto& item) { return item.second.connection_id == connection_id; });
}

void ControlService::models_changed() {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, pending] : pending_) ids.push_back(id);
  for (const std::uint64_t id : ids) try_open(id);
}

void ControlService::retry_blocked() {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, pending] : pending_) {
    if (pending.is_blocked) ids.push_back(id);
  }
  // A user whose oldest request still has to wait need not be looked at further.
  std::set<uid_t> waiting;
  for (const std::uint64_t id : ids) {
    const Pending* pending = find(id);
    if (pending == nullptr || waiting.contains(pending->uid)) continue;
    const uid_t uid = pending->uid;
    try_open(id);
    pending = find(id);
    if (pending != nullptr && pending->is_blocked) waiting.insert(uid);
  }
}

void ControlService::model_finished(std::uint32_t model_id, const Status& status) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, pending] : pending_) {
    if (pending.kind != Kind::kOpenLane && pending.model_id == model_id) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) {
    const Pending& pending = *find(id);
    const std::shared_ptr<ControlConnection> connection = pending.connection.lock();
    const std::uint64_t request_id = pending.request_id;
    pending_.erase(id);
    if (connection == nullptr) continue;
    connection->send(status.ok() ? ok_message(request_id) : error_message(request_id, status));
  }
}

}  // namespace bucketd::supervisor
