// ModelRegistry: which models there are, in which state, and which generation of each serves.
//
// A pure state machine: it starts nothing and talks to nobody. A generation is one load of one
// artifact onto one worker. A model has at most one generation that serves and one candidate that
// is being loaded to take its place; generations that were replaced retire until their worker has
// unloaded them.
//
//            begin_load            load_succeeded
//   (none) ------------> loading -----------------> ready ---+
//                           |                        |  ^    | worker_lost
//               load_failed |           begin_unload |  |    v
//                           v                        v  +- loading
//                   failed/quarantined           unloading --> (none)
//
// Invariants: model ids and generation numbers are never used twice. A model that serves goes on
// serving until a candidate has succeeded.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/supervisor/artifact_opener.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

enum class ModelState : std::uint8_t {
  kLoading = 0,
  kReady = 1,
  kFailed = 2,
  kQuarantined = 3,
  kUnloading = 4,
};

struct ModelSpec {
  std::string name = {};  // empty: the artifact's own
  std::string path = {};
  std::uint32_t worker = 0;
  std::chrono::milliseconds execution_limit{60000};
  std::uint32_t slots = 0;
  StateScope state_scope = StateScope::kSession;
  bool share_across_users = false;  // with kModel
  // Whether a model that has the name already is to be replaced; else that is an error.
  bool may_replace = false;
};

struct Generation {
  std::uint32_t model_id = 0;
  std::uint64_t number = 0;
  ModelSpec spec;
  std::string name;           // provisional until the artifact's own is known
  bool has_own_name = false;  // `name` is not provisional
  OpenedArtifact artifact;    // the loader's; kept for loading it again after a worker's death
  std::optional<ModelDescription> description;
  std::uint32_t deaths_while_loading = 0;  // of its worker, of which others are suspected too
  bool is_on_worker = false;               // loaded by the present incarnation of its worker
};
using GenerationPtr = std::shared_ptr<Generation>;

struct ModelRecord {
  std::string name;
  ModelState state = ModelState::kLoading;
  // Why it failed or is quarantined; of a model that serves: why its last reload failed; ok if
  // neither.
  Status reason;
  std::string admin_detail;  // more than `reason` tells, for administrators: paths
  GenerationPtr serving;     // null until the first success, and after failure
  GenerationPtr candidate;   // null when nothing is being loaded
};

class ModelRegistry {
 public:
  // Makes a candidate. Errors: ALREADY_EXISTS when the name is taken and may not be replaced,
  // FAILED_PRECONDITION when a candidate of that name is being loaded, or the model is being
  // unloaded.
  Result<GenerationPtr> begin_load(ModelSpec spec);

  struct Success {
    GenerationPtr replaced;  // to be unloaded by its worker; may be null
    bool is_first = false;   // this generation's first load, not one after a worker's death
  };
  // The worker has loaded generation `model_id`; a provisional name becomes the description's. Also
  // after a worker's restart. NOT_FOUND when it is not known any more (unloaded meanwhile): then
  // the worker has to unload it; ALREADY_EXISTS when its own name is taken: the same, and the load
  // has failed.
  Result<Success> load_succeeded(std::uint32_t model_id, ModelDescription description);

  // The load of `model_id` failed for good. A model that had no other generation becomes failed or
  // quarantined. `reason` is shown to every user, `admin_detail` (may be empty) to administrators.
  void load_failed(std::uint32_t model_id, const Status& reason, bool is_quarantined,
                   const std::string& admin_detail = {});

  // The worker died: what it had is away. Returns what has to be loaded again, candidates excluded.
  // Generations that were retiring are gone.
  std::vector<GenerationPtr> worker_lost(std::uint32_t worker);

  // NOT_FOUND, FAILED_PRECONDITION (loading, or unloading already). Null when there is nothing on a
  // worker to unload, and the model is gone.
  Result<GenerationPtr> begin_unload(const std::string& name);
  // The worker has unloaded `model_id`: a replaced generation, or a model, is gone.
  void unloaded(std::uint32_t model_id);

  const ModelRecord* find(const std::string& name) const;
  // Any generation that still exists, retiring ones too; null if there is none.
  GenerationPtr generation(std::uint32_t model_id) const;
  // By name.
  const std::map<std::string, ModelRecord>& models() const { return models_; }
  // "NOT_FOUND: no model named 'brt'; there are: bert, gpt".
  Status not_found(const std::string& name) const;
  // Whether a model whose own name is not known yet is being loaded: any name may turn up still.
  bool has_unnamed_candidate() const;
  // The smallest execution limit, and at most `largest`, of all generations that this worker has or
  // is to have, retiring ones too.
  std::chrono::milliseconds smallest_execution_limit(std::uint32_t worker,
                                                     std::chrono::milliseconds largest) const;

 private:
  ModelRecord* find_by_id(std::uint32_t model_id);
  std::string free_provisional_name(const std::string& path) const;
  Status rename(ModelRecord*& record, const std::string& name);

  std::map<std::string, ModelRecord> models_;
  std::map<std::uint32_t, GenerationPtr> retiring_;
  std::uint32_t next_model_id_ = 1;
  std::uint64_t next_number_ = 1;
};

}  // namespace bucketd::supervisor
