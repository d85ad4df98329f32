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
      accounts_(configuration_.limits, configuration_.sessions),
      crash_accounts_(configuration_.crash),
      broker_(configuration_.limits, accounts_, [this] { retry_lanes(); }),
      sessions_(context_, configuration_.sessions, accounts_, slot_of(),
                [this](uid_t uid, const std::string& model) {
                  return crash_accounts_.check(uid, model, Clock::now());
                }),
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
  ignore_further_signals();
  spdlog::info("bucketd ends");
  return Status();
}

std::chrono::milliseconds Supervisor::uptime() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - started_);
}

void Supervisor::retry_lanes() {
  if (std::exchange(is_retry_posted_, true)) return;
  asio::post(context_, [this] {
    is_retry_posted_ = false;
    service_.retry_blocked();
  });
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

void Supervisor::ignore_further_signals() {
  // signals_ restores what a signal does by default: one that comes after that, on the way out,
  // would make a good end look like a death. There is no other thread that could take it meanwhile.
  sigset_t both;
  ::sigemptyset(&both);
  ::sigaddset(&both, SIGTERM);
  ::sigaddset(&both, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &both, nullptr);
  signals_.clear();
  ::signal(SIGTERM, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
}

void Supervisor::drain() {
  draining_ = true;
  notify_stopping();
  notify_status("draining");
  service_.models_changed();  // whoever waits is told
  for (const std::unique_ptr<WorkerSlot>& slot : slots_) {
    slot->stop_restarting();
    if (!slot->is_ready()) continue;
    draining_workers_.insert(slot->id());
    slot->process()->ask(
        [](flatbuffers::FlatBufferBuilder& builder) { return link::CreateDrain(builder); }, {},
        [this, worker = slot->id()](const link::Message* message) {
          // After a death, worker_died() has seen to it.
          if (message != nullptr) worker_drained(worker);
        });
  }
  stop_timer_.expires_after(configuration_.shutdown.drain_timeout);
  stop_timer_.async_wait([this](boost::system::error_code failure) {
    if (failure || finishing_) return;
    spdlog::warn("workers did not finish within 'shutdown.drain_timeout_ms', {} ms",
                 configuration_.shutdown.drain_timeout.count());
    finish();
  });
  if (draining_workers_.empty()) finish();
}

void Supervisor::worker_drained(std::uint32_t worker) {
  if (draining_workers_.erase(worker) != 0 && draining_workers_.empty()) finish();
}

void Supervisor::finish() {
  if (finishing_) return;
  finishing_ = true;
  listener_->close();
  loader_.stop();
  // A worker that has not drained still executes: only its status page, read after its death, tells
  // which requests that were.
  tell_channels_closed(broker_.close_all(draining_workers_),
                       Status(StatusCode::kUnavailable, "the daemon has ended"));
  for (const std::unique_ptr<WorkerSlot>& slot : slots_) {
    if (slot->process() == nullptr) continue;
    if (draining_workers_.contains(slot->id())) {
      slot->process()->kill("was killed, since the daemon ends and it had not finished", true);
    } else {
      slot->process()->close_link();
    }
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
