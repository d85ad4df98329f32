// ModelLoader: brings generations onto their workers: open the artifact, prove it in a probe, load.
//
// An artifact (by identity) that no process has loaded yet on that worker's configuration is first
// loaded by a throw-away probe process (ProbePool). One that killed its probe or a worker, or took
// too long, is condemned: it fails at once until forgive() is called. A worker is asked for one
// load at a time; the others wait here, so that a death during a load has one suspect.
//
// Owned by the Supervisor; the observer must outlive it.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "daemon/supervisor/artifact_opener.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/probe_pool.h"
#include "daemon/supervisor/worker_slot.h"

namespace bucketd::supervisor {

class ModelLoader {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void model_loaded(const GenerationPtr& generation, ModelDescription description) = 0;
    // `admin_detail`: what only administrators may see; empty if there is nothing more.
    virtual void model_failed(const GenerationPtr& generation, const Status& reason,
                              bool is_quarantined, const std::string& admin_detail) = 0;
    virtual WorkerSlot& worker_slot(std::uint32_t worker) = 0;
  };

  ModelLoader(asio::io_context& context, const Configuration& configuration, Observer& observer);
  ~ModelLoader();

  // Loads `generation`, or loads it again after a worker's death (unless that is under way
  // already). The observer hears of it exactly once, later, never from within this call; unless
  // cancel() or stop() comes first.
  void load(GenerationPtr generation);
  // Forgets the load of this generation if it has not reached a worker yet.
  void cancel(std::uint32_t model_id);
  // An administrator asks for this artifact again: it is proven anew, whatever it did before.
  void forgive(const std::string& path);

  // To be told by the slot's owner. A load that the death is to blame on is quarantined; others are
  // tried again with the next incarnation.
  void worker_ready(WorkerSlot& slot);
  void worker_died(WorkerSlot& slot, const WorkerDeath& death);

  // Kills probes, forgets everything under way.
  void stop();

 private:
  // The same artifact may do differently under another worker's operator libraries.
  using ProofKey = std::pair<ArtifactIdentity, std::uint32_t>;
  struct Queue {
    std::deque<GenerationPtr> waiting;
    GenerationPtr loading;  // asked of the present incarnation
    std::unique_ptr<asio::steady_timer> timer;
    bool timed_out = false;
  };

  bool is_under_way(std::uint32_t model_id) const;
  void begin(const GenerationPtr& generation);
  void probed(const GenerationPtr& generation, const ProbePool::Verdict& verdict);
  void to_worker(const GenerationPtr& generation);
  void load_next(std::uint32_t worker);
  void worker_answered(std::uint32_t worker, std::uint32_t model_id, const link::Message* message);
  void fail(const GenerationPtr& generation, const Status& reason, bool is_quarantined,
            const std::string& admin_detail = {});
  // For errors whose texts hold paths.
  void fail_privately(const GenerationPtr& generation, const std::string& what,
                      const Status& reason);
  void condemn(const GenerationPtr& generation, const Status& reason);

  asio::io_context& context_;
  const Configuration& configuration_;
  ArtifactOpener opener_;
  Observer& observer_;
  std::set<ProofKey> proven_;
  std::map<ProofKey, Status> condemned_;
  ProbePool probes_;
  std::map<std::uint32_t, Queue> queues_;
  bool stopped_ = false;
};

}  // namespace bucketd::supervisor
