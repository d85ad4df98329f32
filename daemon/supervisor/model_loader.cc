#include "daemon/supervisor/model_loader.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/wire/model_wire.h"

namespace bucketd::supervisor {
namespace {

// How often a worker may die after it was asked for a load and before it began with it, until the
// artifact is suspected all the same: a worker that dies in taking the question names nothing.
constexpr std::uint32_t kUnexplainedDeaths = 3;

std::string model_text(const Generation& generation) { return "model '" + generation.name + "'"; }

}  // namespace

ModelLoader::ModelLoader(asio::io_context& context, const Configuration& configuration,
                         Observer& observer)
    : context_(context),
      configuration_(configuration),
      opener_(configuration.artifact_roots),
      observer_(observer),
      probes_(
          context, configuration.limits.probe_timeout,
          [&observer](std::uint32_t worker) {
            WorkerLaunch launch = observer.worker_slot(worker).launch(link::WorkerMode::kProbe);
            launch.worker.cores = 1;
            return launch;
          },
          [this](const GenerationPtr& generation, const ProbePool::Verdict& verdict) {
            probed(generation, verdict);
          }) {}

ModelLoader::~ModelLoader() { stop(); }

void ModelLoader::stop() {
  stopped_ = true;
  probes_.stop();
  queues_.clear();
}

void ModelLoader::load(GenerationPtr generation) {
  asio::post(context_, [this, generation = std::move(generation)] {
    if (!stopped_) begin(generation);
  });
}

void ModelLoader::cancel(std::uint32_t model_id) {
  const auto is_it = [&](const GenerationPtr& generation) {
    return generation->model_id == model_id;
  };
  for (auto& [worker, queue] : queues_) std::erase_if(queue.waiting, is_it);
}

void ModelLoader::forgive(const std::string& path) {
  const Result<OpenedArtifact> artifact = opener_.open(path);
  if (!artifact) return;  // the load will say why
  std::erase_if(condemned_,
                [&](const auto& item) { return item.first.first == artifact->identity; });
  std::erase_if(proven_, [&](const ProofKey& key) { return key.first == artifact->identity; });
}

bool ModelLoader::is_under_way(std::uint32_t model_id) const {
  const auto is_it = [&](const GenerationPtr& generation) {
    return generation != nullptr && generation->model_id == model_id;
  };
  return probes_.is_under_way(model_id) ||
         std::any_of(queues_.begin(), queues_.end(), [&](const auto& item) {
           const Queue& queue = item.second;
           return is_it(queue.loading) ||
                  std::any_of(queue.waiting.begin(), queue.waiting.end(), is_it);
         });
}

void ModelLoader::begin(const GenerationPtr& generation) {
  if (is_under_way(generation->model_id)) return;
  if (generation->artifact.fd) {
    // Again, after a worker's death: the same file, which may have been written to since.
    const Result<ArtifactIdentity> identity = identify_artifact(generation->artifact.fd.get());
    if (!identity) return fail_privately(generation, "be examined", identity.error());
    generation->artifact.identity = *identity;
  } else {
    Result<OpenedArtifact> artifact = opener_.open(generation->spec.path);
    if (!artifact) return fail_privately(generation, "be opened", artifact.error());
    generation->artifact = std::move(*artifact);
  }
  const ProofKey key{generation->artifact.identity, generation->spec.worker};
  if (const auto found = condemned_.find(key); found != condemned_.end()) {
    return fail(generation, found->second, true);
  }
  if (proven_.contains(key)) return to_worker(generation);
  probes_.probe(generation);
}

void ModelLoader::probed(const GenerationPtr& generation, const ProbePool::Verdict& verdict) {
  if (verdict.is_quarantined) condemn(generation, verdict.reason);
  if (!verdict.reason.ok()) {
    return fail(generation, verdict.reason, verdict.is_quarantined, verdict.admin_detail);
  }
  proven_.insert({generation->artifact.identity, generation->spec.worker});
  to_worker(generation);
}

void ModelLoader::to_worker(const GenerationPtr& generation) {
  queues_[generation->spec.worker].waiting.push_back(generation);
  load_next(generation->spec.worker);
}

void ModelLoader::load_next(std::uint32_t worker) {
  Queue& queue = queues_[worker];
  WorkerSlot& slot = observer_.worker_slot(worker);
  if (queue.loading != nullptr || queue.waiting.empty() || !slot.is_ready()) return;
  queue.loading = queue.waiting.front();
  queue.waiting.pop_front();
  queue.timed_out = false;
  const std::uint32_t model_id = queue.loading->model_id;
  ProbePool::ask_to_load(*slot.process(), *queue.loading,
                         [this, worker, model_id](const link::Message* message) {
                           worker_answered(worker, model_id, message);
                         });
  queue.timer = std::make_unique<asio::steady_timer>(context_);
  queue.timer->expires_after(configuration_.limits.probe_timeout);
  queue.timer->async_wait([this, worker, model_id](boost::system::error_code failure) {
    const auto found = queues_.find(worker);
    if (failure || found == queues_.end()) return;
    Queue& late = found->second;
    WorkerSlot& owner = observer_.worker_slot(worker);
    if (late.loading == nullptr || late.loading->model_id != model_id) return;
    if (owner.process() == nullptr) return;
    late.timed_out = true;
    owner.process()->kill("was killed, since it did not load " + model_text(*late.loading) +
                              " within 'limits.probe_timeout_ms', " +
                              std::to_string(configuration_.limits.probe_timeout.count()) + " ms",
                          false);
  });
}

void ModelLoader::worker_answered(std::uint32_t worker, std::uint32_t model_id,
                                  const link::Message* message) {
  const auto found = queues_.find(worker);
  if (message == nullptr || found == queues_.end()) return;  // worker_died() decides
  Queue& queue = found->second;
  if (queue.loading == nullptr || queue.loading->model_id != model_id) return;
  const GenerationPtr generation = std::exchange(queue.loading, nullptr);
  queue.timer.reset();
  const link::ModelLoaded* loaded = message->body_as_ModelLoaded();
  if (loaded != nullptr && loaded->model() != nullptr) {
    Result<ModelDescription> description = wire::from_wire(*loaded->model());
    if (description) {
      generation->deaths_while_loading = 0;  // what came before was not its doing
      observer_.model_loaded(generation, std::move(*description));
    } else {
      fail(generation, description.error(), false);
    }
  } else {
    fail(generation, ProbePool::refusal_of(*message), false);
  }
  load_next(worker);
}

void ModelLoader::worker_ready(WorkerSlot& slot) { load_next(slot.id()); }

void ModelLoader::worker_died(WorkerSlot& slot, const WorkerDeath& death) {
  Queue& queue = queues_[slot.id()];
  queue.timer.reset();
  const GenerationPtr generation = std::exchange(queue.loading, nullptr);
  if (generation == nullptr) return;
  // Only if the page names it had the load begun. If something was executing too and nobody is
  // known to have done it, the load gets one more chance. If the worker died before it began, the
  // load is hardly to blame, unless that happens time and again.
  const bool is_suspect = !death.by_supervisor && !has_culprit(death);
  const bool had_begun = queue.timed_out || death.loading_model_id == generation->model_id + 1;
  const bool is_culprit = is_suspect && had_begun && (queue.timed_out || death.executing.empty());
  const std::uint32_t chances = had_begun ? 1 : kUnexplainedDeaths;
  if (is_culprit || (is_suspect && ++generation->deaths_while_loading > chances)) {
    const Status reason(StatusCode::kFailedPrecondition,
                        model_text(*generation) +
                            " is quarantined: while it was being loaded, worker " +
                            std::to_string(slot.id()) + " " + death.cause);
    condemn(generation, reason);
    fail(generation, reason, true);
    return;
  }
  queue.waiting.push_front(generation);
}

void ModelLoader::condemn(const GenerationPtr& generation, const Status& reason) {
  const ProofKey key{generation->artifact.identity, generation->spec.worker};
  proven_.erase(key);
  condemned_.insert_or_assign(key, reason);
}

void ModelLoader::fail(const GenerationPtr& generation, const Status& reason, bool is_quarantined,
                       const std::string& admin_detail) {
  spdlog::error("{} ({}) {}: {}", model_text(*generation), generation->spec.path,
                is_quarantined ? "is quarantined" : "cannot be loaded",
                admin_detail.empty() ? reason.to_string() : admin_detail);
  observer_.model_failed(generation, reason, is_quarantined, admin_detail);
}

void ModelLoader::fail_privately(const GenerationPtr& generation, const std::string& what,
                                 const Status& reason) {
  fail(generation,
       Status(reason.code(), "the artifact of " + model_text(*generation) + " cannot " + what +
                                 "; the daemon's log says why"),
       false, reason.to_string());
}

}  // namespace bucketd::supervisor
