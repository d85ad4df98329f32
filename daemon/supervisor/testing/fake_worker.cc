// bucketd-fake-worker: speaks worker.fbs without LibTorch, and misbehaves on demand.
//
// An "artifact" is a text file of `key: value` lines:
//   name: echo            the artifact's own name
//   load: ok | fail | die | hang | garbage | die_in_worker | hang_in_worker
//   length: 16            inputs are float32 [1, 1..length]; outputs the same
//   states: 0             float32 [length] each, of which length is the sequence dim; initially 100
//   align: left           or right: where along it the positions in use lie
//   operations: die       OperateSession kills the worker (but for kCopyOut); die_before: before
//                         it is begun; die_of_copies: only kCopyOut does
//   bindings: <path>      BindSession kills the worker when this file exists (in kServe mode only)
//   drain: ignore | exit (after its answer)
//   drain_hold: <path>    Drain is answered when this file exists
//   die_after_load: <path>  once, unless this file exists: loaded, it waits for the next message
//   and
//                         dies without reading it (in kServe mode only)
//   lanes: ignore         OpenLane is never answered
//   arenas: refuse_once   the first MapArena is refused
//   hold: <path>          loading makes <path>.reached and ends when <path> exists (in kServe mode
//                         only)
// A request's SubmissionEntry::priority says what it does:
//   0 echo (state 0, if there is a session, gets +1 and is the answer's first element), 1 SIGSEGV,
//   2 never returns, 3 exit(7), 4 sends garbage to the supervisor, 5 reports a violation of its own
//   channel
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/channel_layout.h"
#include "common/futex.h"
#include "common/memfd.h"
#include "common/message_socket.h"
#include "common/wire/model_wire.h"
#include "daemon/link/session_record.h"
#include "daemon/link/worker_status.h"
#include "worker_generated.h"

namespace bucketd::testing {
namespace {

// The way a worker without a handler dies, also where a sanitizer has put in its own.
void die_by_fault() {
  ::signal(SIGSEGV, SIG_DFL);
  ::raise(SIGSEGV);
}

using flatbuffers::FlatBufferBuilder;

[[noreturn]] void hang() {
  while (true) ::pause();
}

std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

using Properties = std::map<std::string, std::string>;

Properties read_artifact(int fd) {
  std::string text(4096, '\0');
  const ssize_t size = ::pread(fd, text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  Properties properties = {{"name", "unnamed"}, {"load", "ok"},         {"length", "16"},
                           {"states", "0"},     {"drain", "ok"},        {"hold", ""},
                           {"drain_hold", ""},  {"die_after_load", ""}, {"lanes", "ok"},
                           {"arenas", "ok"},    {"align", "left"},      {"operations", "ok"},
                           {"bindings", ""}};
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) properties[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return properties;
}

struct Model {
  Properties properties;
  ModelDescription description;
};

ModelDescription describe(const std::string& name, const Properties& properties) {
  const std::int64_t length = std::stol(properties.at("length"));
  ModelDescription model;
  model.name = name.empty() ? properties.at("name") : name;
  model.backend = "fake";
  model.producer = "test";
  model.inputs = {{"x", DType::kFloat32}};
  model.outputs = {{"y", DType::kFloat32}};
  BucketSpec bucket{{Shape{1, length}}, {Shape{1, length}}, {}};
  for (int s = 0; s < std::stoi(properties.at("states")); ++s) {
    model.states.push_back({"s" + std::to_string(s), DType::kFloat32, Shape{length}, 0,
                            properties.at("align") == "right" ? PadSide::kLeft : PadSide::kRight});
    bucket.states.push_back(Shape{length});
  }
  model.buckets = {bucket};
  model.accepted = {{{1, 1}, {1, length}}};
  return model;
}

struct Lane {
  MappedRegion a;
  MappedRegion b;
  LaneLayout layout;
  std::uint32_t model_id = 0;
  std::uint64_t head = 0;

  LaneClientHeader& client() const { return *static_cast<LaneClientHeader*>(a.get_address()); }
  LaneWorkerHeader& worker() const { return *static_cast<LaneWorkerHeader*>(b.get_address()); }
};

struct Channel {
  std::uint64_t connection_id = 0;
  MappedRegion a;
  MappedRegion b;
  UniqueFd socket;
  std::map<std::uint32_t, Lane> lanes;
};

struct Session {
  std::uint32_t arena_id = 0;
  std::vector<std::uint64_t> offsets;
  std::uint32_t model_id = 0;
  std::uint64_t record_offset = 0;
};

class FakeWorker {
 public:
  explicit FakeWorker(int socket) : socket_(socket) {}

  int run() {
    while (true) {
      std::vector<pollfd> fds = {{socket_.get(), POLLIN, 0}};
      for (const auto& [id, channel] : channels_) fds.push_back({channel.socket.get(), POLLIN, 0});
      ::poll(fds.data(), fds.size(), -1);
      if (fds[0].revents != 0 && !receive()) return 0;
      for (auto& [id, channel] : channels_) serve(id, channel);
    }
  }

 private:
  template <typename Make>
  void send(std::uint64_t request_id, Make make) {
    FlatBufferBuilder builder;
    const auto body = make(builder);
    const auto type_of = []<typename T>(flatbuffers::Offset<T>) {
      return link::BodyTraits<T>::enum_value;
    };
    builder.Finish(link::CreateMessage(builder, request_id, type_of(body), body.Union()));
    const auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
    while (send_message(socket_.get(), bytes).code() == StatusCode::kWouldBlock) {
      pollfd writable{socket_.get(), POLLOUT, 0};
      ::poll(&writable, 1, -1);
    }
  }

  void send_garbage() {
    const std::vector<std::byte> garbage(100, std::byte{0xA5});
    [[maybe_unused]] const Status status = send_message(socket_.get(), garbage);
  }

  bool receive() {
    while (true) {
      Result<ReceivedMessage> received = receive_message(socket_.get());
      if (!received) return received.error().code() == StatusCode::kWouldBlock;
      handle(*link::GetMessage(received->bytes.data()), std::move(received->fds));
    }
  }

  void handle(const link::Message& message, std::vector<UniqueFd> fds) {
    const std::uint64_t id = message.request_id();
    if (const auto* configure = message.body_as_Configure()) {
      status_map_ = *map_memfd(fds[0].get(), kWorkerStatusBytes, MapAccess::kReadWrite);
      is_probe_ = configure->mode() == link::WorkerMode::kProbe;
      incarnation_ = configure->incarnation();
      send(0, [](FlatBufferBuilder& builder) {
        return link::CreateReady(builder, ::getpid(), builder.CreateString("fake 1"));
      });
    } else if (const auto* load = message.body_as_LoadModel()) {
      load_model(id, *load, fds[0].get());
    } else if (const auto* unload = message.body_as_UnloadModel()) {
      models_.erase(unload->model_id());
      for (auto& [channel_id, channel] : channels_) {
        std::erase_if(channel.lanes, [&](auto& item) {
          if (item.second.model_id != unload->model_id()) return false;
          item.second.worker().closed.store(1);
          return true;
        });
      }
      send(id, [&](FlatBufferBuilder& builder) {
        return link::CreateModelUnloaded(builder, unload->model_id());
      });
    } else if (const auto* open_channel = message.body_as_OpenChannel()) {
      Channel& channel = channels_[open_channel->channel_id()];
      channel.connection_id = open_channel->connection_id();
      channel.a = *map_memfd(fds[0].get(), kPageBytes, MapAccess::kReadOnly);
      channel.b = *map_memfd(fds[1].get(), kPageBytes, MapAccess::kReadWrite);
      channel.socket = std::move(fds[2]);
      auto& page = *static_cast<WorkerPage*>(channel.b.get_address());
      page.magic = kWorkerPageMagic;
      page.worker_incarnation = incarnation_;
      page.need_wakeup.store(static_cast<std::uint32_t>(Wakeup::kSocket));
      send(id, [&](FlatBufferBuilder& builder) {
        return link::CreateChannelReady(builder, open_channel->channel_id());
      });
    } else if (const auto* open_lane = message.body_as_OpenLane()) {
      this->open_lane(id, *open_lane, fds);
    } else if (const auto* close_lane = message.body_as_CloseLane()) {
      channels_[close_lane->channel_id()].lanes.erase(close_lane->lane_id());
      send(id, [&](FlatBufferBuilder& builder) {
        return link::CreateLaneClosed(builder, close_lane->channel_id(), close_lane->lane_id());
      });
    } else if (const auto* close_channel = message.body_as_CloseChannel()) {
      channels_.erase(close_channel->channel_id());
      streams_.erase(close_channel->channel_id());
      send(id, [&](FlatBufferBuilder& builder) {
        return link::CreateChannelClosed(builder, close_channel->channel_id());
      });
    } else if (const auto* arena = message.body_as_MapArena()) {
      if (any_has("arenas", "refuse_once") && !std::exchange(has_refused_, true)) {
        return refuse(id);
      }
      arenas_[arena->arena_id()] =
          *map_memfd(fds[0].get(), arena->byte_size(), MapAccess::kReadWrite);
      acknowledge(id);
    } else if (const auto* unmap = message.body_as_UnmapArena()) {
      if (arenas_.erase(unmap->arena_id()) == 0) return refuse(id);
      acknowledge(id);
    } else if (const auto* operate = message.body_as_OperateSession()) {
      operate_session(id, *operate);
    } else if (const auto* bind = message.body_as_BindSession()) {
      bind_session(id, *bind);
    } else if (const auto* release = message.body_as_ReleaseSession()) {
      sessions_.erase({release->connection_id(), release->session_handle()});
      acknowledge(id);
    } else if (message.body_as_Drain() != nullptr) {
      if (any_has("drain", "ignore")) return;
      for (const auto& [model_id, model] : models_) wait_for(model.properties.at("drain_hold"));
      send(id, [](FlatBufferBuilder& builder) { return link::CreateDrained(builder); });
      if (any_has("drain", "exit")) ::_exit(0);
    }
  }

  bool any_has(const std::string& key, const std::string& value) const {
    return std::any_of(models_.begin(), models_.end(),
                       [&](const auto& item) { return item.second.properties.at(key) == value; });
  }

  static void wait_for(const std::string& path) {
    struct stat info {};
    while (!path.empty() && ::stat(path.c_str(), &info) != 0) ::usleep(1000);
  }

  static void touch(const std::string& path) {
    ::close(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  }

  void refuse(std::uint64_t id) {
    send(id, [](FlatBufferBuilder& builder) {
      return link::CreateRefused(
          builder, wire::to_wire(builder, Status(StatusCode::kResourceExhausted, "no room")));
    });
  }

  void acknowledge(std::uint64_t id) {
    send(id, [](FlatBufferBuilder& builder) { return link::CreateAcknowledged(builder); });
  }

  WorkerStatus& status() const { return *static_cast<WorkerStatus*>(status_map_.get_address()); }

  void load_model(std::uint64_t id, const link::LoadModel& load, int fd) {
    Model model;
    model.properties = read_artifact(fd);
    model.description = describe(load.name()->str(), model.properties);
    const std::string& how = model.properties["load"];
    status().loading.store(load.model_id() + 1);
    if (how == "die" || (how == "die_in_worker" && !is_probe_)) die_by_fault();
    if (how == "hang" || (how == "hang_in_worker" && !is_probe_)) hang();
    if (how == "garbage") return send_garbage();
    if (!is_probe_ && !model.properties["hold"].empty()) {
      touch(model.properties["hold"] + ".reached");
      wait_for(model.properties["hold"]);
    }
    status().loading.store(0);
    if (how == "fail") {
      return send(id, [&](FlatBufferBuilder& builder) {
        return link::CreateModelFailed(
            builder, load.model_id(),
            wire::to_wire(builder, Status(StatusCode::kDataLoss, "its seal is broken")));
      });
    }
    send(id, [&](FlatBufferBuilder& builder) {
      return link::CreateModelLoaded(builder, load.model_id(),
                                     wire::to_wire(builder, model.description), 1234);
    });
    const std::string marker = model.properties["die_after_load"];
    models_[load.model_id()] = std::move(model);
    if (!is_probe_ && !marker.empty() && ::access(marker.c_str(), F_OK) != 0) {
      touch(marker);
      pollfd readable{socket_.get(), POLLIN, 0};
      ::poll(&readable, 1, -1);
      ::raise(SIGKILL);
    }
  }

  void open_lane(std::uint64_t id, const link::OpenLane& open, std::vector<UniqueFd>& fds) {
    if (models_[open.model_id()].properties["lanes"] == "ignore") return;
    if (open.transport() == link::Transport::kStream) {
      streams_[open.channel_id()] = std::move(fds[0]);
    } else {
      Lane& lane = channels_[open.channel_id()].lanes[open.lane_id()];
      lane.layout = *wire::from_wire(open.layout());
      lane.model_id = open.model_id();
      lane.a = *map_memfd(fds[0].get(), lane.layout.region_a_bytes, MapAccess::kReadOnly);
      lane.b = *map_memfd(fds[1].get(), lane.layout.region_b_bytes, MapAccess::kReadWrite);
    }
    send(id, [&](FlatBufferBuilder& builder) {
      return link::CreateLaneReady(builder, open.channel_id(), open.lane_id());
    });
  }

  void bind_session(std::uint64_t id, const link::BindSession& bind) {
    if (!arenas_.contains(bind.arena_id())) return refuse(id);
    Session session{
        bind.arena_id(), {bind.offsets()->begin(), bind.offsets()->end()}, bind.model_id()};
    const std::string& fatal = models_.at(bind.model_id()).properties.at("bindings");
    if (!fatal.empty() && ::access(fatal.c_str(), F_OK) == 0) {
      die_at(bind.model_id(), bind.session_handle(), ExecutionKind::kBind);
    }
    session.record_offset = bind.record_offset();
    if (bind.initialise()) initialise(session);
    sessions_[{bind.connection_id(), bind.session_handle()}] = std::move(session);
    acknowledge(id);
  }

  // Dies as a worker does whose executor is at something of the session.
  void die_at(std::uint32_t model_id, std::uint64_t session_handle, ExecutionKind kind) {
    ExecutorStatus& executor = status().executors[0];
    executor.model_id.store(model_id);
    executor.lane_id.store(0);
    executor.channel_id.store(0);
    executor.session_handle.store(session_handle);
    executor.kind.store(static_cast<std::uint32_t>(kind));
    executor.state.store(1, std::memory_order_release);
    die_by_fault();
  }

  std::size_t length_of(const Session& session) const {
    return std::stoul(models_.at(session.model_id).properties.at("length"));
  }

  void initialise(const Session& session) const {
    for (std::size_t s = 0; s < session.offsets.size(); ++s) {
      std::fill_n(state(session, s), length_of(session), 100.0F);
    }
  }

  // The rings are looked into first, so that requests submitted before come before.
  void operate_session(std::uint64_t id, const link::OperateSession& operate) {
    for (auto& [channel_id, channel] : channels_) {
      if (channel.connection_id == operate.connection_id()) serve(channel_id, channel);
    }
    const auto found = sessions_.find({operate.connection_id(), operate.session_handle()});
    if (found == sessions_.end()) return refuse(id);
    const Session& session = found->second;
    const std::size_t length = length_of(session);
    const bool is_copy = operate.operation() == link::StateOperation::kCopyOut ||
                         operate.operation() == link::StateOperation::kCopyIn;
    if (is_copy && !arenas_.contains(operate.arena_id())) return refuse(id);
    const bool only_reads = operate.operation() == link::StateOperation::kCopyOut;
    if (any_has("operations", only_reads ? "die_of_copies" : "die")) {
      die_at(session.model_id, operate.session_handle(),
             only_reads ? ExecutionKind::kCopyOut : ExecutionKind::kChange);
    }
    // Queued, so to say, and never begun.
    if (any_has("operations", "die_before")) die_by_fault();
    if (operate.operation() == link::StateOperation::kReset) initialise(session);
    for (std::size_t s = 0; s < session.offsets.size(); ++s) {
      float* own = state(session, s);
      if (is_copy) {
        Session other{operate.arena_id(), {operate.offsets()->begin(), operate.offsets()->end()}};
        const bool is_out = operate.operation() == link::StateOperation::kCopyOut;
        std::copy_n(is_out ? own : state(other, s), length, is_out ? state(other, s) : own);
      } else if (operate.operation() == link::StateOperation::kTruncate) {
        std::fill(own + operate.length(), own + length, 100.0F);
      }
    }
    acknowledge(id);
  }

  float* state(const Session& session, std::size_t number = 0) const {
    auto* base = static_cast<std::byte*>(arenas_.at(session.arena_id).get_address());
    return reinterpret_cast<float*>(base + session.offsets.at(number));
  }

  void serve(std::uint64_t channel_id, Channel& channel) {
    char bytes[64];
    while (::recv(channel.socket.get(), bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
    for (auto& [lane_id, lane] : channel.lanes) {
      while (lane.head != lane.client().submission_tail.load(std::memory_order_acquire)) {
        execute(channel_id, channel, lane_id, lane);
      }
    }
    wake_client(channel);
  }

  static void wake_client(const Channel& channel) {
    auto& page = *static_cast<WorkerPage*>(channel.b.get_address());
    page.signal.fetch_add(1);
    futex_wake(page.signal, 1);
  }

  void execute(std::uint64_t channel_id, const Channel& channel, std::uint32_t lane_id,
               Lane& lane) {
    const std::uint64_t at = lane.head % lane.layout.slot_count;
    auto* a = static_cast<std::byte*>(lane.a.get_address());
    auto* b = static_cast<std::byte*>(lane.b.get_address());
    SubmissionEntry entry;
    std::memcpy(&entry, a + lane.layout.submission_ring_offset + at * sizeof(entry), sizeof(entry));
    ExecutorStatus& executor = status().executors[0];
    executor.model_id.store(lane.model_id);
    executor.lane_id.store(lane_id);
    executor.channel_id.store(channel_id);
    executor.user_data.store(entry.user_data);
    executor.session_handle.store(entry.session_handle);
    executor.started_ns.store(monotonic_ns());
    executor.kind.store(static_cast<std::uint32_t>(ExecutionKind::kRequest));
    executor.state.store(1, std::memory_order_release);
    lane.worker().submission_head.store(lane.head + 1, std::memory_order_release);
    wake_client(channel);
    misbehave(entry.priority, channel_id);
    std::byte* output = b + lane.layout.output_slot_offset(entry.slot);
    std::memcpy(output, a + lane.layout.input_slot_offset(entry.slot), 64);
    const auto session = sessions_.find({channel.connection_id, entry.session_handle});
    CompletionEntry completion{};
    if (session != sessions_.end()) {
      auto* arena = static_cast<std::byte*>(arenas_.at(session->second.arena_id).get_address());
      reinterpret_cast<SessionRecord*>(arena + session->second.record_offset)
          ->count_request(monotonic_ns());
      *state(session->second) += 1.0F;
      std::memcpy(output, state(session->second), sizeof(float));
    } else if (entry.session_handle != 0) {
      completion.status = static_cast<std::uint32_t>(StatusCode::kNotFound);
    }
    completion.user_data = entry.user_data;
    completion.slot = entry.slot;
    std::memcpy(b + lane.layout.completion_ring_offset + at * sizeof(completion), &completion,
                sizeof(completion));
    executor.state.store(0, std::memory_order_release);
    executor.completed.fetch_add(1);
    ++lane.head;
    lane.worker().completion_tail.store(lane.head, std::memory_order_release);
  }

  void misbehave(std::uint8_t how, std::uint64_t channel_id) {
    if (how == 1) die_by_fault();
    if (how == 2) hang();
    if (how == 3) ::_exit(7);
    if (how == 4) send_garbage();
    if (how == 5) {
      send(0, [&](FlatBufferBuilder& builder) {
        return link::CreateViolation(builder, channel_id, builder.CreateString("tail too far"));
      });
    }
  }

  UniqueFd socket_;
  bool is_probe_ = false;
  bool has_refused_ = false;
  std::uint64_t incarnation_ = 0;
  MappedRegion status_map_;
  std::map<std::uint32_t, Model> models_;
  std::map<std::uint64_t, Channel> channels_;
  std::map<std::uint64_t, UniqueFd> streams_;
  std::map<std::uint32_t, MappedRegion> arenas_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, Session> sessions_;
};

}  // namespace
}  // namespace bucketd::testing

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  const int socket = std::stoi(argv[2]);
  // Nothing but the standard streams and the link may have been inherited.
  for (int fd = 3; fd < 256; ++fd) {
    if (fd != socket && ::fcntl(fd, F_GETFD) >= 0) return 65;
  }
  if (::getpgrp() != ::getpid()) return 66;
  return bucketd::testing::FakeWorker(socket).run();
}
