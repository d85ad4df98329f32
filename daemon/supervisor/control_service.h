// ControlService: what the requests of the control protocol mean.
//
// Answers at once what can be answered at once. OpenLane waits for its model, LoadModel and
// UnloadModel for their outcome; such requests are kept here until they are answered, run out of
// time, or their connection ends.
//
// Owned by the Supervisor, which tells it when models change.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/channel_broker.h"
#include "daemon/supervisor/control_connection.h"
#include "daemon/supervisor/crash_accounts.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/session_table.h"

namespace bucketd::supervisor {

class ControlService {
 public:
  // What the service asks of its owner.
  class Daemon {
   public:
    virtual ~Daemon() = default;
    virtual WorkerSlot& worker_slot(std::uint32_t worker) = 0;
    virtual const std::vector<std::unique_ptr<WorkerSlot>>& worker_slots() const = 0;
    virtual bool is_draining() const = 0;
    virtual std::size_t connection_count() const = 0;
    virtual std::chrono::milliseconds uptime() const = 0;
    virtual std::uint64_t incarnation() const = 0;
    // Starts loading; model_finished() follows.
    virtual Result<GenerationPtr> load_model(const std::string& path, const std::string& name) = 0;
    // Starts unloading; null when the model is gone already, else model_finished() follows.
    virtual Result<GenerationPtr> unload_model(const std::string& name) = 0;
  };

  ControlService(asio::io_context& context, Daemon& daemon, ModelRegistry& registry,
                 ChannelBroker& broker, SessionTable& sessions, CrashAccounts& crash_accounts);

  void handle(ControlConnection& connection, const wire::Message& message);
  void connection_ended(std::uint64_t connection_id);

  // A model's state, or a worker's, has changed: waiting requests are tried again.
  void models_changed();
  // A worker has answered something: lanes that it was too busy for are tried again.
  void retry_blocked();
  // The load or unload of generation `model_id` ended so.
  void model_finished(std::uint32_t model_id, const Status& status);

 private:
  enum class Kind { kOpenLane, kLoad, kUnload };
  struct Pending {
    Kind kind = Kind::kOpenLane;
    std::weak_ptr<ControlConnection> connection;
    std::uint64_t connection_id = 0;
    std::uint64_t request_id = 0;
    std::string model;
    std::uint32_t model_id = 0;  // kLoad, kUnload
    link::Transport transport = link::Transport::kRing;
    std::uint32_t slots = 0;
    Clock::time_point wait_until;           // for the model, as the client asked for
    Clock::time_point opening_until;        // set when the model is ready for the first time
    Clock::time_point deadline;             // the one of them that counts now
    std::chrono::milliseconds retry_delay;  // before it is tried again
    bool is_opening = false;                // the worker was asked for the lane, or its session
    std::uint64_t default_session_handle = 0;
    bool is_blocked = false;  // its user has too much under way
    uid_t uid = 0;
    std::unique_ptr<asio::steady_timer> timer;
  };

  void hello(ControlConnection& connection, std::uint64_t request_id, const wire::Hello& hello);
  void list_models(ControlConnection& connection, std::uint64_t request_id);
  void describe(ControlConnection& connection, std::uint64_t request_id, const std::string& model);
  void open_lane(ControlConnection& connection, std::uint64_t request_id,
                 const wire::OpenLane& request);
  void load_model(ControlConnection& connection, std::uint64_t request_id,
                  const wire::LoadModel& request);
  void unload_model(ControlConnection& connection, std::uint64_t request_id,
                    const std::string& model);
  void open_session(ControlConnection& connection, std::uint64_t request_id,
                    const wire::OpenSession& request);
  void close_session(ControlConnection& connection, std::uint64_t request_id,
                     const wire::CloseSession& request);
  void operate_session(ControlConnection& connection, std::uint64_t request_id,
                       const wire::OperateSession& request);
  void fork_session(ControlConnection& connection, std::uint64_t request_id,
                    const wire::ForkSession& request);
  void read_state(ControlConnection& connection, std::uint64_t request_id,
                  const wire::ReadState& request);
  void list_sessions(ControlConnection& connection, std::uint64_t request_id,
                     const wire::ListSessions& request);
  void report_status(ControlConnection& connection, std::uint64_t request_id);

  Pending* find(std::uint64_t pending_id);
  std::uint64_t add_pending(ControlConnection& connection, std::uint64_t request_id, Kind kind,
                            std::uint32_t wait_ms);
  bool may_wait(ControlConnection& connection, std::uint64_t request_id);
  // Out of time at the deadline, or tried again at `retry_at` if that is earlier.
  void arm_timer(std::uint64_t pending_id, Clock::time_point retry_at = Clock::time_point::max());
  void cannot_open_yet(std::uint64_t pending_id, const Status& reason);
  void out_of_time(std::uint64_t pending_id);
  // Goes as far as possible now.
  void try_open(std::uint64_t pending_id);
  // Why `pending` cannot be opened, ever; ok if it can, now or later.
  Status refusal(const Pending& pending, const ControlConnection& connection);
  // Asks the worker for the lane; `default_session_handle`: see LaneOpened.
  void open_with_session(std::uint64_t pending_id, const GenerationPtr& generation,
                         std::uint64_t default_session_handle);
  void lane_opened(std::uint64_t pending_id, std::uint64_t connection_id,
                   const GenerationPtr& generation, Result<LaneOffer> offer);
  SlotLookup slot_of();
  void answer_error(std::uint64_t pending_id, const Status& status);
  flatbuffers::Offset<wire::ModelSummary> summary(flatbuffers::FlatBufferBuilder& builder,
                                                  const ModelRecord& record, bool is_admin) const;

  asio::io_context& context_;
  Daemon& daemon_;
  ModelRegistry& registry_;
  ChannelBroker& broker_;
  SessionTable& sessions_;
  CrashAccounts& crash_accounts_;
  std::map<std::uint64_t, Pending> pending_;
  std::uint64_t next_pending_id_ = 1;
};

}  // namespace bucketd::supervisor
