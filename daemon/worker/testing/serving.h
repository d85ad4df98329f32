// Serving: scheduler, executors and status page with fake models and ring clients, in one process
// and without a supervisor.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/worker/executor.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/status_page.h"
#include "daemon/worker/testing/fake_backend.h"
#include "daemon/worker/testing/ring_client.h"

namespace bucketd::testing {

// A door that executions stop at: how a test holds a request while it looks at the others.
// Thread safety: any thread.
class Gate {
 public:
  // Comes from the hook: counts the visitor, and returns when the gate is open.
  void pass();
  void open();
  // Lets exactly one visitor through, who is there or will come.
  void open_once();
  // Waits until `count` executions in all have come; false after half a minute.
  bool wait_for_visitors(int count);
  int visitors() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int visitors_ = 0;
  int passes_ = 0;
  bool is_open_ = false;
};

struct ServingOptions {
  std::size_t executors = 1;
  WakeupPolicy policy = WakeupPolicy::kAuto;
  std::uint32_t max_plans = 16;
};

class Serving {
 public:
  explicit Serving(const ServingOptions& options = {});
  ~Serving();

  std::shared_ptr<LoadedModel> add_model(ModelDescription description,
                                         FakeModel::Hook hook = nullptr);

  // One client with one lane to `model`.
  struct Client {
    RingClient ring;
    std::unique_ptr<RingClientLane> lane;
    std::uint64_t channel_id = 0;
  };
  // Lane 1; `connection_id` 0: the channel's own id.
  std::unique_ptr<Client> connect(const std::shared_ptr<LoadedModel>& model,
                                  std::uint32_t slots = 4, std::uint64_t slot_bytes = 8192,
                                  std::uint64_t connection_id = 0);

  // Binds a session whose states lie in `states`, which outlive the serving. Fails the process if
  // the connection has one of this handle.
  void add_session(const std::shared_ptr<LoadedModel>& model, std::uint64_t connection_id,
                   std::uint64_t handle, std::vector<TensorView> states, GoneNotice gone = {});

  // Violations reported so far: channel id and reason.
  std::vector<std::pair<std::uint64_t, std::string>> violations() const;
  bool wait_for_violation();

  // Ends the executors; what is queued stays unanswered.
  void stop();

  // Waits until every executor is without work (one leads, the others follow).
  // What hooks did is visible afterwards.
  bool wait_until_idle();

  Scheduler& scheduler() { return *scheduler_; }
  const WorkerStatus& status() const { return status_->page(); }
  const EventFd& control() const { return *control_; }
  FakeBackend backend;

 private:
  const ServingOptions options_;
  std::unique_ptr<EventFd> control_;
  std::unique_ptr<StatusPage> status_;
  mutable std::mutex mutex_;
  std::condition_variable violated_;
  std::vector<std::pair<std::uint64_t, std::string>> violations_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Executors> executors_;
  std::uint64_t next_id_ = 1;
};

}  // namespace bucketd::testing
