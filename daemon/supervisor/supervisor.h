// Supervisor: owns all the parts and joins them; README.md in this folder is its page.
//
// Thread safety: none; everything happens in run().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/supervisor/access.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/channel_broker.h"
#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/control_connection.h"
#include "daemon/supervisor/control_service.h"
#include "daemon/supervisor/crash_accounts.h"
#include "daemon/supervisor/listener.h"
#include "daemon/supervisor/model_loader.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/session_table.h"
#include "daemon/supervisor/user_accounts.h"
#include "daemon/supervisor/worker_slot.h"

namespace bucketd::supervisor {

class Supervisor : private WorkerSlot::Observer,
                   private ModelLoader::Observer,
                   private ControlConnection::Handler,
                   private ControlService::Daemon {
 public:
  // `executable`: the worker's, absolute.
  Supervisor(Configuration configuration, std::string executable);
  ~Supervisor() override;

  // Listens (at `activation` if it is open), starts the workers, loads the configured models, and
  // serves until SIGTERM or SIGINT. Errors: what keeps the daemon from listening.
  Status run(UniqueFd activation);

 private:
  // WorkerSlot::Observer
  void worker_ready(WorkerSlot& slot) override;
  void worker_died(WorkerSlot& slot, const WorkerDeath& death) override;
  void worker_event(WorkerSlot& slot, const link::Message& message) override;
  std::optional<Limit> execution_limit(const WorkerSlot& slot, std::uint32_t model_id) override;
  std::chrono::milliseconds smallest_execution_limit(const WorkerSlot& slot) override;
  bool has_clients(const WorkerSlot& slot) override;
  std::uint64_t next_incarnation() override;
  // ModelLoader::Observer
  void model_loaded(const GenerationPtr& generation, ModelDescription description) override;
  void model_failed(const GenerationPtr& generation, const Status& reason, bool is_quarantined,
                    const std::string& admin_detail) override;
  // ControlConnection::Handler
  void on_request(ControlConnection& connection, const wire::Message& message) override;
  void on_end(ControlConnection& connection, const std::string& reason) override;
  // ControlService::Daemon, and ModelLoader::Observer
  WorkerSlot& worker_slot(std::uint32_t worker) override { return *slots_[worker]; }
  const std::vector<std::unique_ptr<WorkerSlot>>& worker_slots() const override { return slots_; }
  bool is_draining() const override { return draining_; }
  std::size_t connection_count() const override { return connections_.size(); }
  std::chrono::milliseconds uptime() const override;
  std::uint64_t incarnation() const override { return incarnation_; }
  Result<GenerationPtr> load_model(const std::string& path, const std::string& name) override;
  Result<GenerationPtr> unload_model(const std::string& name) override;

  void accept(UniqueFd socket);
  void load_configured_models();
  void ask_to_unload(const GenerationPtr& generation);
  void generation_unloaded(const GenerationPtr& generation);
  std::string describe_death(const WorkerDeath& death) const;
  void charge_death(const WorkerSlot& slot, const WorkerDeath& death,
                    const std::vector<ChannelEnd>& ends,
                    const std::vector<SessionTable::OperationAtDeath>& operations);
  void tell_channels_closed(const std::vector<ChannelEnd>& ends, const Status& reason);
  void tell_lanes_closed(const std::vector<LaneEnd>& ends);
  void end_connection(std::uint64_t connection_id, const std::string& reason);
  void changed();
  void wait_for_signal();
  // Once everything has ended: the exit code is decided.
  void ignore_further_signals();
  void drain();
  // This worker has nothing more to finish, or is dead.
  void worker_drained(std::uint32_t worker);
  void finish();
  void stop_if_all_dead();
  SlotLookup slot_of();
  // Once per turn of the io_context, however much progress there was.
  void retry_lanes();
  void sessions_changed(const std::string& model);

  const Configuration configuration_;
  const AccessPolicy access_;
  const Clock::time_point started_ = Clock::now();
  const std::uint64_t incarnation_;
  asio::io_context context_;
  asio::signal_set signals_;
  asio::steady_timer stop_timer_;
  std::shared_ptr<Listener> listener_;
  UserAccounts accounts_;
  CrashAccounts crash_accounts_;
  ModelRegistry registry_;
  ChannelBroker broker_;
  SessionTable sessions_;
  ControlService service_;
  struct Connection {
    std::shared_ptr<ControlConnection> control;
    Charge charge;
  };
  std::map<std::uint64_t, Connection> connections_;
  std::vector<std::unique_ptr<WorkerSlot>> slots_;
  ModelLoader loader_;
  std::uint64_t next_connection_id_ = 1;
  std::uint64_t next_incarnation_ = 1;
  bool is_retry_posted_ = false;
  bool ready_told_ = false;
  std::string status_told_;
  bool draining_ = false;
  bool finishing_ = false;
  // Workers that were asked to drain and have not answered yet.
  std::set<std::uint32_t> draining_workers_;
};

}  // namespace bucketd::supervisor
