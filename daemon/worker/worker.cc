#include "daemon/worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "common/wire/model_wire.h"
#include "daemon/worker/core_affinity.h"
#include "daemon/worker/fault_handler.h"

namespace bucketd {
namespace {

using flatbuffers::FlatBufferBuilder;

std::string text(const flatbuffers::String* string) {
  return string != nullptr ? string->str() : std::string();
}

// Channels and lanes that this process may hold open: each takes two mappings, of which Linux
// allows 65,530 by default, and LibTorch needs some too.
constexpr std::size_t kMostOpen = 16'384;

Status too_many_open() {
  return Status(StatusCode::kResourceExhausted, "this worker has " + std::to_string(kMostOpen) +
                                                    " channels and lanes open already");
}

}  // namespace

Worker::Worker(Options options, const EventFd& wake, Outbox& outbox)
    : options_(std::move(options)), wake_(wake), outbox_(outbox) {}

Worker::~Worker() {
  if (scheduler_ != nullptr) scheduler_->stop();
}

GoneNotice Worker::gone_notice() const {
  return GoneNotice(std::make_shared<std::atomic<bool>>(false), &wake_);
}

Status Worker::wrong_descriptor_count(const char* message, std::size_t expected, std::size_t got) {
  return Status(StatusCode::kInvalidArgument,
                std::string(message) + " carries " + std::to_string(got) + " descriptors, not " +
                    std::to_string(expected) +
                    (got < expected ? "; the worker may have run out of descriptors" : ""));
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
    case link::Body::OperateSession:
      operate_session(id, *message.body_as_OperateSession());
      return Status();
    case link::Body::UnmapArena:
      unmap_arena(id, *message.body_as_UnmapArena());
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
  if (loader_ != nullptr) {
    for (ModelLoader::Outcome& outcome : loader_->take_outcomes()) {
      model_loaded(std::move(outcome));
    }
  }
  tell_ended_streams();
  std::erase_if(pending_, [](const Pending& pending) { return pending(); });
  if (scheduler_ == nullptr) return std::nullopt;
  return scheduler_->expire_deadlines();
}

Status Worker::configure(const link::Configure& message, Fds fds) {
  if (scheduler_ != nullptr) {
    return Status(StatusCode::kFailedPrecondition, "Configure came a second time");
  }
  if (fds.size() != 1) return wrong_descriptor_count("Configure", 1, fds.size());
  Result<StatusPage> page = StatusPage::open(fds[0]);
  if (!page) return page.error();
  status_.emplace(std::move(*page));
  if (options_.installs_fault_handler) install_fault_handler(status_->page());
  incarnation_ = message.incarnation();
  plan_cache_entries_ = message.plan_cache_entries();
  const std::uint32_t cores = std::clamp<std::uint32_t>(message.core_count(), 1, kMaxExecutors);

  // Before any thread of ours or of the backend's libraries is started: they inherit it.
  bind_to_cores(message.first_core(), cores,
                std::max<std::uint32_t>(message.threads_per_core(), 1));

  BackendOptions options;
  options.core_count = cores;
  options.threads_per_core = std::max<std::uint32_t>(message.threads_per_core(), 1);
  if (message.operator_libraries() != nullptr) {
    for (const auto* library : *message.operator_libraries()) {
      options.operator_libraries.push_back(text(library));
    }
  }
  Result<std::unique_ptr<Backend>> backend = options_.make_backend(options);
  if (!backend) return backend.error();
  backend_ = std::move(*backend);

  Scheduler::Options scheduling;
  scheduling.policy = static_cast<WakeupPolicy>(message.wakeup());
  scheduling.spin_us = message.spin_us();
  Result<std::unique_ptr<Scheduler>> scheduler = Scheduler::make(
      scheduling, wake_, *status_, [this](std::uint64_t channel_id, const std::string& reason) {
        outbox_.post(0, [&](FlatBufferBuilder& builder) {
          return link::CreateViolation(builder, channel_id, builder.CreateString(reason));
        });
      });
  if (!scheduler) return scheduler.error();
  scheduler_ = std::move(*scheduler);
  loader_ = std::make_unique<ModelLoader>(*backend_, *status_, wake_);
  // A probe only loads.
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
  if (fds.size() != 1) {
    return model_loaded(
        {request_id, model_id, error(wrong_descriptor_count("LoadModel", 1, fds.size()))});
  }
  if (models_.contains(model_id)) {
    return model_loaded({request_id, model_id,
                         error(StatusCode::kAlreadyExists,
                               "model number " + std::to_string(model_id) + " is loaded already")});
  }
  loader_->load({request_id, model_id, std::move(fds[0]), text(message.name())});
}

void Worker::model_loaded(ModelLoader::Outcome outcome) {
  const auto fail = [&](const Status& status) {
    outbox_.post(outcome.request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateModelFailed(builder, outcome.model_id, wire::to_wire(builder, status));
    });
  };
  if (!outcome.model) return fail(outcome.model.error());
  auto model =
      std::make_shared<LoadedModel>(outcome.model_id, std::move(*outcome.model), gone_notice());
  if (!models_.emplace(outcome.model_id, model).second) {
    return fail(
        Status(StatusCode::kAlreadyExists,
               "model number " + std::to_string(outcome.model_id) + " was loaded meanwhile"));
  }
  const bool posted = outbox_.post(outcome.request_id, [&](FlatBufferBuilder& builder) {
    return link::CreateModelLoaded(builder, outcome.model_id,
                                   wire::to_wire(builder, model->description()),
                                   model->model->resident_bytes());
  });
  if (posted) return;
  models_.erase(outcome.model_id);
  fail(
      Status(StatusCode::kResourceExhausted, "model '" + model->description().name +
                                                 "': its description is larger than a message of " +
                                                 std::to_string(kMaxPacketBytes) + " bytes"));
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
    return outbox_.refuse(request_id, wrong_descriptor_count("OpenChannel", 3, fds.size()));
  }
  const std::uint64_t channel_id = message.channel_id();
  if (scheduler_->find_channel(channel_id) != nullptr) {
    return outbox_.refuse(request_id,
                          Status(StatusCode::kAlreadyExists,
                                 "channel " + std::to_string(channel_id) + " is open already"));
  }
  if (scheduler_->open_count() >= kMostOpen) return outbox_.refuse(request_id, too_many_open());
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
  if (fds.size() != 2) return wrong_descriptor_count("OpenLane", 2, fds.size());
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
  if (fds.size() != 1) return wrong_descriptor_count("OpenLane", 1, fds.size());
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
    ended_streams_.push_back({channel_id, lane_id, std::move(gone)});
  }
  wake_.notify();
}

// A lane that is closed already may still be held by a request that runs.
GoneNotice::Flag Worker::gone_flag_of(std::uint64_t channel_id) {
  if (const std::shared_ptr<Channel> channel = scheduler_->find_channel(channel_id)) {
    return channel->gone_flag();
  }
  const std::lock_guard lock(ended_mutex_);
  for (const EndedStream& ended : ended_streams_) {
    if (ended.channel_id == channel_id) return ended.gone;
  }
  return nullptr;
}

void Worker::tell_ended_streams() {
  const std::lock_guard lock(ended_mutex_);
  std::erase_if(ended_streams_, [&](const EndedStream& ended) {
    if (!ended.gone->load(std::memory_order_acquire)) return false;
    outbox_.post(0, [&](FlatBufferBuilder& builder) {
      return link::CreateLaneClosed(builder, ended.channel_id, ended.lane_id);
    });
    return true;
  });
}

void Worker::close_lane(std::uint64_t request_id, const link::CloseLane& message) {
  const std::uint64_t channel_id = message.channel_id();
  const std::uint32_t lane_id = message.lane_id();
  GoneNotice::Flag gone;
  if (const std::shared_ptr<Lane> lane = scheduler_->find_lane(channel_id, lane_id)) {
    gone = lane->gone_flag();
    scheduler_->close_lane(*lane);
  } else if (scheduler_->find_channel(channel_id) == nullptr) {
    gone = gone_flag_of(channel_id);
  }
  // A lane that is not there is closed: its model may have been unloaded meanwhile.
  when_gone(gone, [this, request_id, channel_id, lane_id] {
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateLaneClosed(builder, channel_id, lane_id);
    });
  });
}

void Worker::close_channel(std::uint64_t request_id, const link::CloseChannel& message) {
  const std::uint64_t channel_id = message.channel_id();
  const GoneNotice::Flag gone = gone_flag_of(channel_id);
  scheduler_->close_channel(channel_id);
  when_gone(gone, [this, request_id, channel_id] {
    outbox_.post(request_id, [&](FlatBufferBuilder& builder) {
      return link::CreateChannelClosed(builder, channel_id);
    });
  });
}

void Worker::when_gone(GoneNotice::Flag gone, std::function<void()> answer) {
  pending_.push_back([gone = std::move(gone), answer = std::move(answer)] {
    if (gone != nullptr && !gone->load(std::memory_order_acquire)) return false;
    answer();
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
