#include "daemon/worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "common/wire/model_wire.h"
#include "daemon/worker/fault_handler.h"
#include "daemon/worker/monotonic_clock.h"

namespace bucketd {
namespace {

using flatbuffers::FlatBufferBuilder;

// While deadlines are watched, a request that comes later may have an earlier one.
constexpr std::uint64_t kDeadlineLookNs = 100'000'000;

std::string text(const flatbuffers::String* string) {
  return string != nullptr ? string->str() : std::string();
}

Status wrong_descriptors(const char* message, std::size_t expected, std::size_t got) {
  return Status(StatusCode::kInvalidArgument, std::string(message) + " carries " +
                                                  std::to_string(got) + " descriptors, not " +
                                                  std::to_string(expected));
}

}  // namespace

Worker::Worker(BackendFactory make_backend, const EventFd& wake, Outbox& outbox)
    : make_backend_(std::move(make_backend)), wake_(wake), outbox_(outbox) {}

Worker::~Worker() {
  if (scheduler_ != nullptr) scheduler_->stop();
}

GoneNotice Worker::gone_notice() const {
  return GoneNotice(std::make_shared<std::atomic<bool>>(false), &wake_);
}

void Worker::acknowledge(std::uint64_t request_id) {
  outbox_.post(request_id,
               [](FlatBufferBuilder& builder) { return link::CreateAcknowledged(builder); });
}

Status Worker::on_message(const link::Message& message, Fds fds) {
  const std::uint64_t id = message.request_id();
  if (const auto* body = message.body_as_Configure()) return configure(*body, std::move(fds));
  if (scheduler_ == nullptr) {
    return Status(StatusCode::kFailedPrecondition, "the first message was not Configure");
  }
  switch (message.body_type()) {
    case link::Body::LoadModel:
      load_model(id, *message.body_as_LoadModel(), std::move(fds));
      return Status();
    case link::Body::UnloadModel:
      unload_model(id, *message.body_as_UnloadModel());
      return Status();
    case link::Body::OpenChannel:
      open_channel(id, *message.body_as_OpenChannel(), std::move(fds));
      return Status();
    case link::Body::OpenLane:
      open_lane(id, *message.body_as_OpenLane(), std::move(fds));
      return Status();
    case link::Body::CloseLane:
      close_lane(id, *message.body_as_CloseLane());
      return Status();
    case link::Body::CloseChannel:
      close_channel(id, *message.body_as_CloseChannel());
      return Status();
    case link::Body::MapArena:
      map_arena(id, *message.body_as_MapArena(), std::move(fds));
      return Status();
    case link::Body::BindSession:
      bind_session(id, *message.body_as_BindSession());
      return Status();
    case link::Body::ReleaseSession:
      release_session(id, *message.body_as_ReleaseSession());
      return Status();
    case link::Body::Drain:
      drain(id);
      return Status();
    default:
      return Status(StatusCode::kInvalidArgument,
                    "a message of type " + std::to_string(static_cast<int>(message.body_type())) +
                        " is none that a supervisor sends");
  }
}

std::optional<std::uint64_t> Worker::on_wake() {
  {
    const std::lock_guard lock(ended_mutex_);
    std::move(ended_streams_.begin(), ended_streams_.end(), std::back_inserter(pending_));
    ended_streams_.clear();
  }
  std::erase_if(pending_, [](const Pending& pending) { return pending(); });
  if (scheduler_ == nullptr) return std::nullopt;
  const std::optional<std::uint64_t> deadline_ns = scheduler_->expire_deadlines();
  if (!deadline_ns) return std::nullopt;
  return std::min(*deadline_ns, monotonic_ns() + kDeadlineLookNs);
}

Status Worker::configure(const link::Configure& message, Fds fds) {
  if (scheduler_ != nullptr) {
    return Status(StatusCode::kFailedPrecondition, "Configure came a second time");
  }
  if (fds.size() != 1) return wrong_descriptors("Configure", 1, fds.size());
  Result<StatusPage> page = StatusPage::open(fds[0]);
  if (!page) return page.error();
  status_.emplace(std::move(*page));
  incarnation_ = message.incarnation();
  plan_cache_entries_ = message.plan_cache_entries();
  const std::uint32_t cores = std::clamp<std::uint32_t>(message.core_count(), 1, kMaxExecutors);

  BackendOptions options;
  options.core_count = cores;
  options.threads_per_core = std::max<std::uint32_t>(message.threads_per_core(), 1);
  if (message.operator_libraries() != nullptr) {
    for (const auto* library : *message.operator_libraries()) {
      options.operator_libraries.push_back(text(library));
    }
  }
  Result<std::unique_ptr<Backend>> backend = make_backend_(options);
  if (!backend) return backend.error();
  backend_ = std::move(*backend);

  Scheduler::Options scheduling;
  scheduling.policy = static_cast<WakeupPolicy>(message.wakeup());
  scheduling.spin_us = message.spin_us();
  Result<std::unique_ptr<Scheduler>> scheduler = Scheduler::make(
      scheduling, &wake_, [this](std::uint64_t channel_id, const std::string& reason) {
        outbox_.post(0, [&](FlatBufferBuilder& builder) {
          return link::CreateViolation(builder, channel_id, builder.CreateString(reason));
        });
      });
  if (!scheduler) return scheduler.error();
  scheduler_ = std::move(*scheduler);
  // A probe loads on this thread and executes nothing for clients.
  if (message.mode() == link::WorkerMode::kServe) {
    executors_ = std::make_unique<Executors>(cores, *backend_, *scheduler_, *status_);
  }
  const std::string version = backend_->version();
  outbox_.post(0, [&](FlatBufferBuilder& builder) {
    return link::CreateReady(builder, ::getpid(), builder.CreateString(version));
  });
  return Status();
}

// --- models ---

void Worker::load_model(std::uint64_t request_id, const link::LoadModel& message, Fds fds) {
  const std::uint32_t model_id = message.model_id();
  const auto fail = [&](const Status& status) {
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateModelFailed(builder, model_id, wire::to_wire(builder, status));
    });
  };
  if (fds.size() != 1) return fail(wrong_descriptors("LoadModel", 1, fds.size()));
  if (models_.contains(model_id)) {
    return fail(Status(StatusCode::kAlreadyExists,
                       "model number " + std::to_string(model_id) + " is loaded already"));
  }
  status_->set_loading(model_id + 1);
  Result<std::unique_ptr<BucketModel>> loaded = backend_->load(fds[0].get(), text(message.name()));
  status_->set_loading(0);
  if (!loaded) return fail(loaded.error());
  auto model = std::make_shared<LoadedModel>(model_id, std::move(*loaded), gone_notice());
  const bool posted = outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
    return link::CreateModelLoaded(builder, model_id, wire::to_wire(builder, model->description()),
                                   model->model->resident_bytes());
  });
  if (!posted) {
    return fail(Status(StatusCode::kResourceExhausted,
                       "model '" + model->description().name +
                           "': its description is larger than a message of " +
                           std::to_string(kMaxPacketBytes) + " bytes"));
  }
  models_.emplace(model_id, std::move(model));
}

void Worker::unload_model(std::uint64_t request_id, const link::UnloadModel& message) {
  const std::uint32_t model_id = message.model_id();
  const auto found = models_.find(model_id);
  if (found == models_.end()) {
    return outbox_.refuse(request_id, Status(StatusCode::kNotFound,
                                             "no model has number " + std::to_string(model_id)));
  }
  struct Unload {
    std::shared_ptr<LoadedModel> model;
    std::vector<std::shared_ptr<Lane>> lanes;  // that have requests in flight
    struct Leaving {
      std::uint64_t channel_id;
      std::uint32_t lane_id;
      GoneNotice::Flag gone;
    };
    std::vector<Leaving> leaving;  // retired, held by whoever finishes with them
    GoneNotice::Flag model_gone;
  };
  auto unload = std::make_shared<Unload>();
  unload->model = std::move(found->second);
  unload->model_gone = unload->model->gone.flag();
  models_.erase(found);
  unload->lanes = scheduler_->begin_unload(*unload->model);
  pending_.push_back([this, request_id, model_id, unload] {
    for (auto at = unload->lanes.begin(); at != unload->lanes.end();) {
      if (!scheduler_->retire_if_idle(**at)) {
        ++at;
        continue;
      }
      unload->leaving.push_back({(*at)->channel().id(), (*at)->id(), (*at)->gone_flag()});
      at = unload->lanes.erase(at);
    }
    std::erase_if(unload->leaving, [&](const Unload::Leaving& lane) {
      if (!lane.gone->load(std::memory_order_acquire)) return false;
      outbox_.post(0, [&](FlatBufferBuilder& builder) {
        return link::CreateLaneClosed(builder, lane.channel_id, lane.lane_id);
      });
      return true;
    });
    if (!unload->lanes.empty() || !unload->leaving.empty()) return false;
    if (unload->model != nullptr) {
      scheduler_->remove_sessions_of(*unload->model);
      unload->model = nullptr;
    }
    if (!unload->model_gone->load(std::memory_order_acquire)) return false;
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateModelUnloaded(builder, model_id);
    });
    return true;
  });
}

// --- channels and lanes ---

void Worker::open_channel(std::uint64_t request_id, const link::OpenChannel& message, Fds fds) {
  if (fds.size() != 3) {
    return outbox_.refuse(request_id, wrong_descriptors("OpenChannel", 3, fds.size()));
  }
  const std::uint64_t channel_id = message.channel_id();
  if (scheduler_->find_channel(channel_id) != nullptr) {
    return outbox_.refuse(request_id,
                          Status(StatusCode::kAlreadyExists,
                                 "channel " + std::to_string(channel_id) + " is open already"));
  }
  Result<std::shared_ptr<RingChannel>> channel =
      RingChannel::open(channel_id, message.connection_id(), incarnation_, fds[0], fds[1],
                        std::move(fds[2]), gone_notice());
  if (!channel) return outbox_.refuse(request_id, channel.error());
  scheduler_->add_ring_channel(std::move(*channel));
  outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
    return link::CreateChannelReady(builder, channel_id);
  });
}

void Worker::open_lane(std::uint64_t request_id, const link::OpenLane& message, Fds fds) {
  const auto found = models_.find(message.model_id());
  if (found == models_.end()) {
    return outbox_.refuse(
        request_id,
        Status(StatusCode::kNotFound, "no model has number " + std::to_string(message.model_id())));
  }
  const Status status = message.transport() == link::Transport::kRing
                            ? open_ring_lane(message, std::move(fds), found->second)
                            : open_stream_lane(message, std::move(fds), found->second);
  if (!status.ok()) return outbox_.refuse(request_id, status);
  outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
    return link::CreateLaneReady(builder, message.channel_id(), message.lane_id());
  });
}

Status Worker::open_ring_lane(const link::OpenLane& message, Fds fds,
                              std::shared_ptr<LoadedModel> model) {
  if (fds.size() != 2) return wrong_descriptors("OpenLane", 2, fds.size());
  const Result<LaneLayout> layout = wire::from_wire(message.layout());
  if (!layout) return layout.error();
  auto channel =
      std::dynamic_pointer_cast<RingChannel>(scheduler_->find_channel(message.channel_id()));
  if (channel == nullptr) {
    return Status(StatusCode::kNotFound,
                  "channel " + std::to_string(message.channel_id()) + " is not open");
  }
  Result<std::shared_ptr<RingLane>> lane =
      RingLane::open(std::move(channel), message.lane_id(), std::move(model), *layout, fds[0],
                     fds[1], plan_cache_entries_, gone_notice());
  if (!lane) return lane.error();
  if (!scheduler_->add_lane(std::move(*lane))) {
    return Status(StatusCode::kAlreadyExists, "channel " + std::to_string(message.channel_id()) +
                                                  " has a lane " +
                                                  std::to_string(message.lane_id()) + " already");
  }
  return Status();
}

Status Worker::open_stream_lane(const link::OpenLane& message, Fds fds,
                                std::shared_ptr<LoadedModel> model) {
  if (fds.size() != 1) return wrong_descriptors("OpenLane", 1, fds.size());
  // Nothing is mapped: the layout says how many requests may be in flight, and how large.
  const Result<LaneLayout> layout = wire::from_wire(message.layout());
  if (!layout) return layout.error();
  const std::optional<std::uint64_t> needed = needed_output_bytes(model->description());
  if (!needed || layout->output_slot_bytes < *needed) {
    return Status(StatusCode::kInvalidArgument,
                  "model '" + model->description().name + "': outputs of up to " +
                      (needed ? std::to_string(*needed) : "uncountable") + " bytes where " +
                      std::to_string(layout->output_slot_bytes) + " are allowed");
  }
  if (scheduler_->find_channel(message.channel_id()) != nullptr) {
    return Status(StatusCode::kAlreadyExists,
                  "channel " + std::to_string(message.channel_id()) + " is open already");
  }
  if (streams_ == nullptr) {
    Result<std::unique_ptr<StreamServer>> streams = StreamServer::make(
        *scheduler_,
        [this](std::uint64_t channel_id, std::uint32_t lane_id, const GoneNotice::Flag& gone) {
          stream_ended(channel_id, lane_id, gone);
        });
    if (!streams) return streams.error();
    streams_ = std::move(*streams);
  }
  auto channel =
      std::make_shared<Channel>(message.channel_id(), message.connection_id(), gone_notice());
  auto lane = std::make_shared<StreamLane>(channel, message.lane_id(), std::move(model),
                                           layout->slot_count, layout->input_slot_bytes,
                                           plan_cache_entries_, streams_->mailbox(), gone_notice());
  scheduler_->add_stream_channel(std::move(channel));
  scheduler_->add_lane(lane);
  streams_->add(std::move(lane), std::move(fds[0]));
  return Status();
}

void Worker::stream_ended(std::uint64_t channel_id, std::uint32_t lane_id, GoneNotice::Flag gone) {
  {
    const std::lock_guard lock(ended_mutex_);
    ended_streams_.push_back([this, channel_id, lane_id, gone = std::move(gone)] {
      if (!gone->load(std::memory_order_acquire)) return false;
      outbox_.post(0, [&](FlatBufferBuilder& builder) {
        return link::CreateLaneClosed(builder, channel_id, lane_id);
      });
      return true;
    });
  }
  wake_.notify();
}

void Worker::close_lane(std::uint64_t request_id, const link::CloseLane& message) {
  const std::uint64_t channel_id = message.channel_id();
  const std::uint32_t lane_id = message.lane_id();
  std::shared_ptr<Lane> lane = scheduler_->find_lane(channel_id, lane_id);
  GoneNotice::Flag gone;
  if (lane != nullptr) {
    gone = lane->gone_flag();
    scheduler_->close_lane(*lane);
    lane = nullptr;
  }
  // A lane that is not there is closed: its model may have been unloaded meanwhile.
  pending_.push_back([this, request_id, channel_id, lane_id, gone] {
    if (gone != nullptr && !gone->load(std::memory_order_acquire)) return false;
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateLaneClosed(builder, channel_id, lane_id);
    });
    return true;
  });
}

void Worker::close_channel(std::uint64_t request_id, const link::CloseChannel& message) {
  const std::uint64_t channel_id = message.channel_id();
  GoneNotice::Flag gone;
  if (const std::shared_ptr<Channel> channel = scheduler_->find_channel(channel_id)) {
    gone = channel->gone_flag();
  }
  scheduler_->close_channel(channel_id);
  pending_.push_back([this, request_id, channel_id, gone] {
    if (gone != nullptr && !gone->load(std::memory_order_acquire)) return false;
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateChannelClosed(builder, channel_id);
    });
    return true;
  });
}

// --- sessions ---

void Worker::map_arena(std::uint64_t request_id, const link::MapArena& message, Fds fds) {
  if (fds.size() != 1) {
    return outbox_.refuse(request_id, wrong_descriptors("MapArena", 1, fds.size()));
  }
  if (Status status = check_sealed(fds[0].get(), message.byte_size()); !status.ok()) {
    return outbox_.refuse(request_id, status.with_context("state arena"));
  }
  Result<MappedRegion> region = map_memfd(fds[0].get(), message.byte_size(), MapAccess::kReadWrite);
  if (!region) return outbox_.refuse(request_id, region.error().with_context("state arena"));
  const bool added =
      arenas_.emplace(message.arena_id(), std::make_shared<const MappedRegion>(std::move(*region)))
          .second;
  if (!added) {
    return outbox_.refuse(request_id, Status(StatusCode::kAlreadyExists,
                                             "state arena " + std::to_string(message.arena_id()) +
                                                 " is mapped already"));
  }
  acknowledge(request_id);
}

Result<std::shared_ptr<Session>> Worker::make_session(const link::BindSession& message) {
  const auto model = models_.find(message.model_id());
  if (model == models_.end()) {
    return error(StatusCode::kNotFound,
                 "no model has number " + std::to_string(message.model_id()));
  }
  const auto arena = arenas_.find(message.arena_id());
  if (arena == arenas_.end()) {
    return error(StatusCode::kNotFound,
                 "no state arena has number " + std::to_string(message.arena_id()));
  }
  const std::vector<StateSpec>& specs = model->second->description().states;
  const std::size_t offset_count = message.offsets() != nullptr ? message.offsets()->size() : 0;
  if (message.session_handle() == 0 || offset_count != specs.size()) {
    return error(StatusCode::kInvalidArgument,
                 "session " + std::to_string(message.session_handle()) + " has " +
                     std::to_string(offset_count) + " places for the " +
                     std::to_string(specs.size()) + " states of model '" +
                     model->second->description().name + "'");
  }
  std::vector<TensorView> states;
  for (std::size_t s = 0; s < specs.size(); ++s) {
    const std::uint64_t offset = message.offsets()->Get(static_cast<flatbuffers::uoffset_t>(s));
    const std::optional<std::uint64_t> bytes = specs[s].shape.byte_size(specs[s].dtype);
    const std::uint64_t size = arena->second->get_size();
    if (!bytes || offset % kTensorAlignment != 0 || offset > size || *bytes > size - offset) {
      return error(StatusCode::kInvalidArgument,
                   "state '" + specs[s].name + "' at offset " + std::to_string(offset) +
                       " does not lie aligned within a state arena of " + std::to_string(size) +
                       " bytes");
    }
    states.push_back({specs[s].dtype, specs[s].shape,
                      static_cast<std::byte*>(arena->second->get_address()) + offset});
  }
  if (message.initialise()) {
    if (Status status = model->second->model->initialise_states(states); !status.ok()) {
      return error(std::move(status));
    }
  }
  return std::make_shared<Session>(gone_notice(), message.connection_id(), message.session_handle(),
                                   model->second, arena->second, std::move(states));
}

void Worker::bind_session(std::uint64_t request_id, const link::BindSession& message) {
  Result<std::shared_ptr<Session>> session = make_session(message);
  if (!session) return outbox_.refuse(request_id, session.error());
  if (!scheduler_->add_session(std::move(*session))) {
    return outbox_.refuse(request_id, Status(StatusCode::kAlreadyExists,
                                             "session " + std::to_string(message.session_handle()) +
                                                 " is bound already"));
  }
  acknowledge(request_id);
}

void Worker::release_session(std::uint64_t request_id, const link::ReleaseSession& message) {
  GoneNotice::Flag gone;
  if (const std::shared_ptr<Session> session =
          scheduler_->remove_session(message.connection_id(), message.session_handle())) {
    gone = session->gone.flag();
  }
  pending_.push_back([this, request_id, gone] {
    if (gone != nullptr && !gone->load(std::memory_order_acquire)) return false;
    acknowledge(request_id);
    return true;
  });
}

void Worker::drain(std::uint64_t request_id) {
  scheduler_->drain();
  pending_.push_back([this, request_id] {
    if (!scheduler_->is_idle()) return false;
    outbox_.post(request_id,
                 [](FlatBufferBuilder& builder) { return link::CreateDrained(builder); });
    return true;
  });
}

}  // namespace bucketd
