#include "daemon/supervisor/supervisor.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "common/wire/model_wire.h"
#include "daemon/supervisor/control_message.h"
#include "daemon/supervisor/service_notification.h"
#include "daemon/supervisor/version.h"

namespace bucketd::supervisor {
namespace {

// How long workers may take to exit once their link is closed.
constexpr std::chrono::seconds kExitTimeout{2};
// A worker that died this often without getting ready does not keep the service from being ready.
constexpr std::uint32_t kHopelessStarts = 3;

std::uint64_t random_number() {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) std::abort();
  return number;
}

// Every lane in the making needs several descriptors.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Supervisor::Supervisor(Configuration configuration, std::string executable)
    : configuration_(std::move(configuration)),
      access_(configuration_.access, ::geteuid()),
      incarnation_(random_number()),
      signals_(context_),
      stop_timer_(context_),
      accounts_(configuration_.limits),
      crash_accounts_(configuration_.crash),
      broker_(configuration_.limits, accounts_),
      sessions_(context_, configuration_.limits, accounts_, slot_of()),
      service_(context_, *this, registry_, broker_, sessions_, crash_accounts_),
      loader_(context_, configuration_, *this) {
  for (std::uint32_t i = 0; i < configuration_.workers.size(); ++i) {
    slots_.push_back(std::make_unique<WorkerSlot>(context_, i, configuration_.workers[i],
                                                  configuration_, executable,
                                                  static_cast<WorkerSlot::Observer&>(*this)));
  }
}

Supervisor::~Supervisor() = default;

Status Supervisor::run(UniqueFd activation) {
  ::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  signals_.add(SIGTERM);
  signals_.add(SIGINT);
  wait_for_signal();
  Result<std::shared_ptr<Listener>> listener =
      Listener::open(context_, configuration_.socket, std::move(activation),
                     [this](UniqueFd socket) { accept(std::move(socket)); });
  if (!listener) return listener.error();
  listener_ = std::move(*listener);
  spdlog::info("bucketd {} listens at {}", kVersion, configuration_.socket.path);
  notify_status("starting workers");
  load_configured_models();
  for (const std::unique_ptr<WorkerSlot>& slot : slots_) slot->start();
  changed();
  context_.run();
  spdlog::info("bucketd ends");
  return Status();
}

std::chrono::milliseconds Supervisor::uptime() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - started_);
}

SlotLookup Supervisor::slot_of() {
  return [this](std::uint32_t worker) -> WorkerSlot& { return *slots_[worker]; };
}

// --- clients ---

void Supervisor::accept(UniqueFd socket) {
  const Result<PeerCredentials> peer = peer_credentials(socket.get());
  if (!peer) {
    spdlog::warn("a connection was refused: {}", peer.error().message());
    return;
  }
  const std::uint64_t id = next_connection_id_++;
  const std::shared_ptr<ControlConnection> connection = ControlConnection::start(
      context_, id, std::move(socket), *peer, access_.is_admin(*peer), *this);
  Status refused;
  Charge charge;
  if (!access_.may_use(*peer)) {
    refused = Status(StatusCode::kPermissionDenied,
                     "user " + std::to_string(peer->uid) +
                         " may not use this daemon (see 'access' in its configuration)");
  } else if (connections_.size() >= configuration_.limits.max_connections) {
    refused = Status(StatusCode::kResourceExhausted,
                     "the daemon has " + std::to_string(connections_.size()) +
                         " connections, the limit 'limits.max_connections'");
  } else if (Result<Charge> charged = accounts_.charge(peer->uid, Resource::kConnections, 1);
             charged) {
    charge = std::move(*charged);
  } else {
    refused = charged.error();
  }
  if (!refused.ok()) {
    // An answer to the Hello that is to come: any request id would do, events have 0.
    spdlog::warn("a connection of {} was refused: {}", connection->description(),
                 refused.message());
    connection->send(error_message(0, refused));
    connection->close("refused");
    return;
  }
  connections_.emplace(id, Connection{connection, std::move(charge)});
}

void Supervisor::on_request(ControlConnection& connection, const wire::Message& message) {
  service_.handle(connection, message);
}

void Supervisor::on_end(ControlConnection& connection, const std::string& reason) {
  const auto found = connections_.find(connection.id());
  if (found == connections_.end()) return;  // refused
  spdlog::log(reason == ControlConnection::kPeerEnded ? spdlog::level::debug : spdlog::level::warn,
              "the connection of {} is over: {}", connection.description(), reason);
  service_.connection_ended(connection.id());
  broker_.connection_ended(connection.id(), slot_of());
  sessions_.connection_ended(connection.id());
  connections_.erase(found);
}

void Supervisor::end_connection(std::uint64_t connection_id, const std::string& reason) {
  const auto found = connections_.find(connection_id);
  if (found == connections_.end()) return;
  found->second.control->close(reason);
}

void Supervisor::tell_channels_closed(const std::vector<ChannelEnd>& ends, const Status& reason) {
  for (const ChannelEnd& end : ends) {
    const auto found = connections_.find(end.connection_id);
    if (!end.is_known_to_client || found == connections_.end()) continue;
    found->second.control->send(control_message(0, [&](flatbuffers::FlatBufferBuilder& builder) {
      std::vector<wire::ExecutingRequest> executing;
      for (const ExecutingAtDeath& request : end.executing) {
        executing.emplace_back(request.user_data, request.lane_id);
      }
      const auto status = wire::to_wire(builder, reason);
      return wire::CreateChannelClosed(builder, end.channel_id, status,
                                       builder.CreateVectorOfStructs(executing));
    }));
  }
}

void Supervisor::tell_lanes_closed(const std::vector<LaneEnd>& ends) {
  for (const LaneEnd& end : ends) {
    const auto found = connections_.find(end.connection_id);
    if (found == connections_.end()) continue;
    const GenerationPtr generation = registry_.generation(end.model_id);
    const Status reason(StatusCode::kUnavailable,
                        generation == nullptr
                            ? "the model was unloaded"
                            : "model '" + generation->name + "' was unloaded or replaced");
    found->second.control->send(control_message(0, [&](flatbuffers::FlatBufferBuilder& builder) {
      const auto status = wire::to_wire(builder, reason);
      return wire::CreateLaneClosed(builder, end.channel_id, end.lane_id, status);
    }));
  }
}

// --- models ---

void Supervisor::load_configured_models() {
  for (const ModelConfiguration& model : configuration_.models) {
    const Result<GenerationPtr> generation = registry_.begin_load(
        {model.name, model.path, model.worker, model.execution_limit, model.slots, false});
    if (generation) {
      loader_.load(*generation);
    } else {
      spdlog::error("{}: {}", model.path, generation.error().message());
    }
  }
}

Result<GenerationPtr> Supervisor::load_model(const std::string& path, const std::string& name) {
  if (draining_) {
    return error(StatusCode::kUnavailable, "the daemon is draining: it loads nothing any more");
  }
  if (!name.empty() && !is_model_name(name)) {
    return error(StatusCode::kInvalidArgument,
                 "a model's name has 1 to 64 characters of [A-Za-z0-9_.-]");
  }
  ModelSpec spec{name, path, 0, ModelConfiguration().execution_limit, 0, true};
  const auto configured =
      std::find_if(configuration_.models.begin(), configuration_.models.end(),
                   [&](const ModelConfiguration& model) {
                     return name.empty() ? model.path == path : model.name == name;
                   });
  const ModelRecord* record = name.empty() ? nullptr : registry_.find(name);
  if (record != nullptr && record->serving != nullptr) {
    // A reload keeps what the model was given before.
    spec.worker = record->serving->spec.worker;
    spec.execution_limit = record->serving->spec.execution_limit;
    spec.slots = record->serving->spec.slots;
  } else if (configured != configuration_.models.end()) {
    spec.worker = configured->worker;
    spec.execution_limit = configured->execution_limit;
    spec.slots = configured->slots;
    if (name.empty()) spec.name = configured->name;
  }
  Result<GenerationPtr> generation = registry_.begin_load(std::move(spec));
  if (!generation) return generation;
  loader_.forgive(path);
  loader_.load(*generation);
  changed();
  return generation;
}

Result<GenerationPtr> Supervisor::unload_model(const std::string& name) {
  const ModelRecord* record = registry_.find(name);
  const GenerationPtr serving = record == nullptr ? nullptr : record->serving;
  Result<GenerationPtr> unloading = registry_.begin_unload(name);
  if (!unloading) return unloading;
  crash_accounts_.forget(name);
  if (*unloading != nullptr) {
    ask_to_unload(*unloading);
  } else {
    if (serving != nullptr) loader_.cancel(serving->model_id);
    sessions_changed(name);
  }
  changed();
  return unloading;
}

void Supervisor::ask_to_unload(const GenerationPtr& generation) {
  WorkerProcess* process = worker_slot(generation->spec.worker).process();
  if (process == nullptr) return;
  process->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateUnloadModel(builder, generation->model_id);
      },
      {},
      [this, generation](const link::Message* message) {
        // After a death, worker_died() has seen to it.
        if (message != nullptr) generation_unloaded(generation);
      });
}

void Supervisor::generation_unloaded(const GenerationPtr& generation) {
  tell_lanes_closed(broker_.model_unloaded(generation->model_id));
  registry_.unloaded(generation->model_id);
  sessions_changed(generation->name);
  service_.model_finished(generation->model_id, Status());
  changed();
}

void Supervisor::sessions_changed(const std::string& model) {
  const ModelRecord* record = registry_.find(model);
  const bool is_gone = record == nullptr || record->serving == nullptr;
  if (!is_gone && !record->serving->is_on_worker) return;  // until its worker has it again
  sessions_.model_changed(model, is_gone ? nullptr : record->serving, [&](std::uint32_t model_id) {
    return registry_.generation(model_id) != nullptr;
  });
}

void Supervisor::model_loaded(const GenerationPtr& generation, ModelDescription description) {
  Result<ModelRegistry::Success> success =
      registry_.load_succeeded(generation->model_id, std::move(description));
  if (!success) {
    ask_to_unload(generation);
    service_.model_finished(generation->model_id, success.error());
    return changed();
  }
  spdlog::info("model '{}' is ready: generation {} on worker {}", generation->name,
               generation->number, generation->spec.worker);
  if (success->is_first) crash_accounts_.forget(generation->name);
  if (success->replaced != nullptr) ask_to_unload(success->replaced);
  sessions_changed(generation->name);  // before lanes: their requests name sessions
  service_.model_finished(generation->model_id, Status());
  changed();
}

void Supervisor::model_failed(const GenerationPtr& generation, const Status& reason,
                              bool is_quarantined, const std::string& admin_detail) {
  registry_.load_failed(generation->model_id, reason, is_quarantined, admin_detail);
  // Only administrators ask for loads.
  service_.model_finished(generation->model_id,
                          admin_detail.empty() ? reason : Status(reason.code(), admin_detail));
  changed();
}

void Supervisor::changed() {
  service_.models_changed();
  const bool settled =
      std::all_of(registry_.models().begin(), registry_.models().end(), [&](const auto& item) {
        const ModelRecord& record = item.second;
        if (record.state != ModelState::kLoading) return true;
        const GenerationPtr& awaited =
            record.candidate != nullptr ? record.candidate : record.serving;
        return worker_slot(awaited->spec.worker).failed_starts() >= kHopelessStarts;
      });
  const auto ready =
      std::count_if(registry_.models().begin(), registry_.models().end(),
                    [](const auto& item) { return item.second.state == ModelState::kReady; });
  if (draining_) return;
  if (settled && !ready_told_) {
    ready_told_ = true;
    notify_ready();
    spdlog::info("ready: {} of {} models serve", ready, registry_.models().size());
  }
  const std::string text =
      std::to_string(ready) + " of " + std::to_string(registry_.models().size()) + " models serve";
  if (std::exchange(status_told_, text) != text) notify_status(text);
}

// --- workers ---

std::uint64_t Supervisor::next_incarnation() { return next_incarnation_++; }

void Supervisor::worker_ready(WorkerSlot& slot) {
  loader_.worker_ready(slot);
  changed();
}

std::string Supervisor::describe_death(const WorkerDeath& death) const {
  std::string text = death.cause;
  std::vector<std::string> models;
  for (const ExecutingAtDeath& request : death.executing) {
    const GenerationPtr generation = registry_.generation(request.model_id);
    if (generation == nullptr) continue;
    const std::string quoted = "'" + generation->name + "'";
    if (std::find(models.begin(), models.end(), quoted) == models.end()) models.push_back(quoted);
  }
  for (std::size_t i = 0; i < models.size(); ++i) {
    text += (i == 0 ? (models.size() == 1 ? " while executing model " : " while executing models ")
                    : ", ") +
            models[i];
  }
  if (death.loading_model_id != 0) {
    const GenerationPtr generation = registry_.generation(death.loading_model_id - 1);
    if (generation != nullptr) text += " while loading model '" + generation->name + "'";
  }
  return text;
}

void Supervisor::worker_died(WorkerSlot& slot, const WorkerDeath& raw_death) {
  WorkerDeath death = raw_death;
  const std::vector<ChannelEnd> ends = broker_.worker_died(slot, death);
  const std::string text = describe_death(death);
  const std::string subject = "worker " + std::to_string(slot.id());
  slot.set_last_death(text);
  if (finishing_) {
    spdlog::info("{} {}", subject, text);
  } else {
    spdlog::error("{} {}", subject, text);
  }
  tell_channels_closed(ends, Status(StatusCode::kUnavailable, subject + " " + text));
  charge_death(slot, death, ends);
  sessions_.worker_died(slot.id(), ends);
  loader_.worker_died(slot, death);
  std::vector<GenerationPtr> unloading;
  for (const auto& [name, record] : registry_.models()) {
    if (record.state == ModelState::kUnloading && record.serving->spec.worker == slot.id()) {
      unloading.push_back(record.serving);
    }
  }
  for (const GenerationPtr& generation : registry_.worker_lost(slot.id())) {
    loader_.load(generation);
  }
  for (const GenerationPtr& generation : unloading) {
    sessions_changed(generation->name);
    service_.model_finished(generation->model_id, Status());
  }
  changed();
  if (draining_)
    asio::post(context_, [this] { finishing_ ? stop_if_all_dead() : worker_drained(); });
}

void Supervisor::charge_death(const WorkerSlot& slot, const WorkerDeath& death,
                              const std::vector<ChannelEnd>& ends) {
  if (death.by_supervisor) return;
  const bool is_known = has_culprit(death);
  const std::uint32_t shares = suspect_count(death);
  for (const ChannelEnd& end : ends) {
    for (const ExecutingAtDeath& request : end.executing) {
      if (is_known && !request.is_culprit) continue;
      const GenerationPtr generation = registry_.generation(request.model_id);
      if (generation == nullptr) continue;
      crash_accounts_.charge(end.uid, generation->name, shares, Clock::now());
      spdlog::warn("{} of the death of worker {} is charged to uid {} on model '{}'",
                   shares == 1 ? "all" : "1/" + std::to_string(shares), slot.id(), end.uid,
                   generation->name);
    }
  }
}

void Supervisor::worker_event(WorkerSlot& slot, const link::Message& message) {
  if (const link::Violation* violation = message.body_as_Violation()) {
    const auto connection_id = broker_.connection_of(slot, violation->channel_id());
    if (!connection_id) return;
    end_connection(*connection_id,
                   "the client broke the channel's rules: " +
                       (violation->reason() != nullptr ? violation->reason()->str()
                                                       : std::string("no reason given")));
  } else if (const link::LaneClosed* lane = message.body_as_LaneClosed()) {
    tell_lanes_closed(broker_.ended_by_worker(slot, lane->channel_id(), lane->lane_id()));
  } else if (const link::ChannelClosed* channel = message.body_as_ChannelClosed()) {
    tell_lanes_closed(broker_.ended_by_worker(slot, channel->channel_id(), std::nullopt));
  }
}

std::optional<WorkerSlot::Observer::Limit> Supervisor::execution_limit(const WorkerSlot& slot,
                                                                       std::uint32_t model_id) {
  const GenerationPtr generation = registry_.generation(model_id);
  if (generation == nullptr || generation->spec.worker != slot.id()) return std::nullopt;
  return Limit{generation->spec.execution_limit, generation->name};
}

std::chrono::milliseconds Supervisor::smallest_execution_limit(const WorkerSlot& slot) {
  std::chrono::milliseconds smallest = ModelConfiguration().execution_limit;
  for (const auto& [name, record] : registry_.models()) {
    for (const GenerationPtr& generation : {record.serving, record.candidate}) {
      if (generation == nullptr || generation->spec.worker != slot.id()) continue;
      smallest = std::min(smallest, generation->spec.execution_limit);
    }
  }
  return smallest;
}

bool Supervisor::has_clients(const WorkerSlot& slot) { return broker_.has_channels(slot); }

// --- the end ---

void Supervisor::wait_for_signal() {
  signals_.async_wait([this](boost::system::error_code failure, int signal) {
    if (failure) return;
    spdlog::info("{} received", signal == SIGTERM ? "SIGTERM" : "SIGINT");
    if (draining_) {
      finish();
    } else {
      drain();
    }
    wait_for_signal();
  });
}

void Supervisor::drain() {
  draining_ = true;
  notify_stopping();
  notify_status("draining");
  service_.models_changed();  // whoever waits is told
  undrained_ = 1;             // this very function, until it has asked all
  for (const std::unique_ptr<WorkerSlot>& slot : slots_) {
    slot->stop_restarting();
    if (!slot->is_ready()) continue;
    ++undrained_;
    slot->process()->ask(
        [](flatbuffers::FlatBufferBuilder& builder) { return link::CreateDrain(builder); }, {},
        [this](const link::Message* message) {
          if (message != nullptr) worker_drained();
        });
  }
  stop_timer_.expires_after(configuration_.shutdown.drain_timeout);
  stop_timer_.async_wait([this](boost::system::error_code failure) {
    if (failure || finishing_) return;
    spdlog::warn("workers did not finish within 'shutdown.drain_timeout_ms', {} ms",
                 configuration_.shutdown.drain_timeout.count());
    finish();
  });
  worker_drained();
}

void Supervisor::worker_drained() {
  if (finishing_ || undrained_ == 0) return;
  if (--undrained_ == 0) finish();
}

void Supervisor::finish() {
  if (finishing_) return;
  finishing_ = true;
  listener_->close();
  loader_.stop();
  tell_channels_closed(broker_.close_all(),
                       Status(StatusCode::kUnavailable, "the daemon has ended"));
  for (const std::unique_ptr<WorkerSlot>& slot : slots_) {
    if (slot->process() != nullptr) slot->process()->close_link();
  }
  stop_timer_.expires_after(kExitTimeout);
  stop_timer_.async_wait([this](boost::system::error_code failure) {
    if (failure) return;
    for (const std::unique_ptr<WorkerSlot>& slot : slots_) {
      if (slot->process() == nullptr) continue;
      spdlog::warn("worker {} does not exit and is killed", slot->id());
      slot->process()->kill("was killed, since the daemon ends", true);
    }
  });
  stop_if_all_dead();
}

void Supervisor::stop_if_all_dead() {
  const bool alive = std::any_of(slots_.begin(), slots_.end(),
                                 [](const auto& slot) { return slot->process() != nullptr; });
  if (alive) return;
  for (auto& [id, connection] : connections_) connection.control->close("the daemon ends");
  connections_.clear();
  asio::post(context_, [this] { context_.stop(); });
}

}  // namespace bucketd::supervisor
