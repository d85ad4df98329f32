// Worker: what the supervisor's messages do. Owns everything in this process.
//
// Thread safety: everything on the control thread. Questions that have to wait for running requests
// (closing, unloading, releasing, draining) are kept and answered in on_wake(); the others in
// order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/worker/control_link.h"
#include "daemon/worker/executor.h"
#include "daemon/worker/loaded_model.h"
#include "daemon/worker/model_loader.h"
#include "daemon/worker/outbox.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/status_page.h"
#include "daemon/worker/stream_server.h"

namespace bucketd {

class Worker : public ControlLink::Handler {
 public:
  using BackendFactory =
      std::function<Result<std::unique_ptr<Backend>>(const BackendOptions& options)>;

  struct Options {
    BackendFactory make_backend;
    // See fault_handler.h. The status page then has to live as long as the process.
    bool installs_fault_handler = false;
  };

  // `wake`: the one of the link that this is the handler of. Both outlive this.
  Worker(Options options, const EventFd& wake, Outbox& outbox);
  // Lets running requests end.
  ~Worker() override;

  Status on_message(const link::Message& message, std::vector<UniqueFd> fds) override;
  std::optional<std::uint64_t> on_wake() override;

 private:
  using Fds = std::vector<UniqueFd>;
  // A question that is answered later. True: it was answered.
  using Pending = std::function<bool()>;

  Status configure(const link::Configure& message, Fds fds);
  void load_model(std::uint64_t request_id, const link::LoadModel& message, Fds fds);
  void model_loaded(ModelLoader::Outcome outcome);
  void unload_model(std::uint64_t request_id, const link::UnloadModel& message);
  void open_channel(std::uint64_t request_id, const link::OpenChannel& message, Fds fds);
  void open_lane(std::uint64_t request_id, const link::OpenLane& message, Fds fds);
  void close_lane(std::uint64_t request_id, const link::CloseLane& message);
  void close_channel(std::uint64_t request_id, const link::CloseChannel& message);
  void map_arena(std::uint64_t request_id, const link::MapArena& message, Fds fds);
  void unmap_arena(std::uint64_t request_id, const link::UnmapArena& message);
  void bind_session(std::uint64_t request_id, const link::BindSession& message);
  void release_session(std::uint64_t request_id, const link::ReleaseSession& message);
  void operate_session(std::uint64_t request_id, const link::OperateSession& message);
  void drain(std::uint64_t request_id);

  Status open_ring_lane(const link::OpenLane& message, Fds fds, std::shared_ptr<LoadedModel> model);
  Status open_stream_lane(const link::OpenLane& message, Fds fds,
                          std::shared_ptr<LoadedModel> model);
  // A new session, or the one that another connection has bound by this handle.
  Result<std::shared_ptr<Session>> make_session(const link::BindSession& message);
  Result<std::shared_ptr<const StateArena>> find_arena(std::uint32_t arena_id) const;
  // Called on the stream thread.
  void stream_ended(std::uint64_t channel_id, std::uint32_t lane_id, GoneNotice::Flag gone);
  void tell_ended_streams();
  // Set when nothing of the channel is left; null if there is nothing.
  GoneNotice::Flag gone_flag_of(std::uint64_t channel_id);
  void acknowledge(std::uint64_t request_id);
  // Calls `answer` once `gone` is set (null: there is nothing to wait for).
  void when_gone(GoneNotice::Flag gone, std::function<void()> answer);
  GoneNotice gone_notice() const;
  static Status wrong_descriptor_count(const char* message, std::size_t expected, std::size_t got);

  const Options options_;
  const EventFd& wake_;
  Outbox& outbox_;

  // Since Configure.
  std::uint64_t incarnation_ = 0;
  std::uint32_t plan_cache_entries_ = 0;
  std::optional<StatusPage> status_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unordered_map<std::uint32_t, std::shared_ptr<LoadedModel>> models_;
  std::unordered_map<std::uint32_t, std::shared_ptr<const StateArena>> arenas_;
  std::vector<Pending> pending_;
  std::mutex ended_mutex_;
  struct EndedStream {
    std::uint64_t channel_id = 0;
    std::uint32_t lane_id = 0;
    GoneNotice::Flag gone;
  };
  std::vector<EndedStream>
      ended_streams_;  // by their clients, not told yet; guarded by ended_mutex_
  std::unique_ptr<ModelLoader> loader_;
  std::unique_ptr<StreamServer> streams_;  // since the first stream lane
  std::unique_ptr<Executors> executors_;   // last: ends first
};

}  // namespace bucketd
