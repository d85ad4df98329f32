// ProbePool: tries artifacts out in processes that may die of them.
//
// A probe is a worker in kProbe mode: it loads one artifact, answers, and is thrown away, or given
// the next artifact, since starting LibTorch costs more than most loads. An artifact that kills a
// probe which had loaded others before is tried again in a fresh one, so that none pays for what
// another one broke.
//
// Owned by the ModelLoader. Thread safety: none; the supervisor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/worker_process.h"

namespace bucketd::supervisor {

class ProbePool {
 public:
  struct Verdict {
    Status reason;                // ok: the artifact can be loaded
    bool is_quarantined = false;  // it killed its probe, or took too long
    std::string admin_detail;     // what only administrators may see
  };
  using Done = std::function<void(const GenerationPtr&, const Verdict&)>;
  // What a probe for this worker is started with.
  using LaunchOf = std::function<WorkerLaunch(std::uint32_t worker)>;

  // `done` is called once for each probe(), never from within it.
  ProbePool(asio::io_context& context, std::chrono::milliseconds timeout, LaunchOf launch_of,
            Done done);

  // Tries the generation's opened artifact out.
  void probe(GenerationPtr generation);
  bool is_under_way(std::uint32_t model_id) const;
  // Kills all probes and forgets what they were for.
  void stop();

  // Sends LoadModel with the generation's artifact; also how a serving worker is asked.
  static void ask_to_load(WorkerProcess& process, const Generation& generation,
                          WorkerProcess::Answer answer);
  // Why ModelFailed, Refused or anything but ModelLoaded was answered.
  static Status refusal_of(const link::Message& message);

 private:
  struct Task {
    GenerationPtr generation;
    bool needs_fresh_probe = false;
  };
  struct Probe {
    std::uint32_t worker = 0;
    std::shared_ptr<WorkerProcess> process;
    std::unique_ptr<asio::steady_timer> timer;
    GenerationPtr generation;  // null while it has nothing to do
    std::uint32_t answers = 0;
    bool is_closing = false;
  };

  void give_out_work();
  // Takes the first task that can be begun now. False if there is none.
  bool begin_one();
  void start(const GenerationPtr& generation);
  void assign(std::uint64_t probe_id, Probe& probe, const GenerationPtr& generation);
  void ask(std::uint64_t probe_id, Probe& probe);
  void answered(std::uint64_t probe_id, const link::Message* message);
  void died(std::uint64_t probe_id, const WorkerDeath& death);
  void close(std::uint64_t probe_id, Probe& probe);
  std::size_t busy_count() const;

  asio::io_context& context_;
  const std::chrono::milliseconds timeout_;
  const LaunchOf launch_of_;
  const Done done_;
  std::deque<Task> tasks_;
  std::map<std::uint64_t, Probe> probes_;
  std::uint64_t next_probe_id_ = 1;
};

}  // namespace bucketd::supervisor
