#include "daemon/supervisor/model_loader.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>

#include "common/system_error.h"
#include "common/wire/model_wire.h"

namespace bucketd::supervisor {
namespace {

// Each probe is a process with LibTorch in it; more would only compete for the same cores.
constexpr std::size_t kMaxProbes = 2;
// A probe that has answered exits by itself when its link closes; it is not waited for longer.
constexpr std::chrono::seconds kProbeExitTimeout{5};

std::string model_text(const Generation& generation) { return "model '" + generation.name + "'"; }

}  // namespace

ModelLoader::ModelLoader(asio::io_context& context, const Configuration& configuration,
                         Observer& observer)
    : context_(context),
      configuration_(configuration),
      opener_(configuration.artifact_roots),
      observer_(observer) {}

ModelLoader::~ModelLoader() { stop(); }

void ModelLoader::stop() {
  stopped_ = true;
  to_probe_.clear();
  probes_.clear();
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
  std::erase_if(to_probe_, is_it);
  for (auto& [worker, queue] : queues_) std::erase_if(queue.waiting, is_it);
}

void ModelLoader::forgive(const std::string& path) {
  const Result<OpenedArtifact> artifact = opener_.open(path);
  if (!artifact) return;  // the load will say why
  std::erase_if(condemned_,
                [&](const auto& item) { return item.first.first == artifact->identity; });
}

bool ModelLoader::is_under_way(std::uint32_t model_id) const {
  const auto is_it = [&](const GenerationPtr& generation) {
    return generation != nullptr && generation->model_id == model_id;
  };
  return std::any_of(to_probe_.begin(), to_probe_.end(), is_it) ||
         std::any_of(probes_.begin(), probes_.end(),
                     [&](const auto& item) {
                       return !item.second.answered && is_it(item.second.generation);
                     }) ||
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
  to_probe_.push_back(generation);
  start_probes();
}

void ModelLoader::start_probes() {
  while (!to_probe_.empty() && probes_.size() < kMaxProbes) {
    const GenerationPtr generation = to_probe_.front();
    to_probe_.pop_front();
    start_probe(generation);
  }
}

void ModelLoader::ask_to_load(WorkerProcess& process, const Generation& generation,
                              WorkerProcess::Answer answer) {
  std::vector<UniqueFd> fds;
  fds.emplace_back(::fcntl(generation.artifact.fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!fds.back()) {
    spdlog::error("{}: {}", model_text(generation),
                  status_from_errno("pass the artifact", errno).message());
    fds.clear();  // refused by the worker, with its own reason
  }
  process.ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateLoadModel(
            builder, generation.model_id,
            builder.CreateString(generation.has_own_name ? generation.name : std::string()));
      },
      std::move(fds), std::move(answer));
}

void ModelLoader::start_probe(const GenerationPtr& generation) {
  const std::uint64_t id = next_probe_id_++;
  WorkerLaunch launch =
      observer_.worker_slot(generation->spec.worker).launch(link::WorkerMode::kProbe);
  launch.worker.cores = 1;
  Result<std::shared_ptr<WorkerProcess>> process = WorkerProcess::start(
      context_, launch,
      {[this, id] {
         const auto found = probes_.find(id);
         if (found == probes_.end()) return;
         ask_to_load(*found->second.process, *found->second.generation,
                     [this, id](const link::Message* message) { probe_answered(id, message); });
       },
       [](const link::Message&) {},
       [this, id](const WorkerDeath& death) { probe_died(id, death); }});
  if (!process) return fail_privately(generation, "be tried out", process.error());
  spdlog::debug("{}: probed by process {}", model_text(*generation), (*process)->pid());
  Probe& probe = probes_[id];
  probe.id = id;
  probe.generation = generation;
  probe.process = std::move(*process);
  probe.timer = std::make_unique<asio::steady_timer>(context_);
  probe.timer->expires_after(configuration_.limits.probe_timeout);
  probe.timer->async_wait([this, id](boost::system::error_code failure) {
    const auto found = probes_.find(id);
    if (failure || found == probes_.end()) return;
    found->second.process->kill("did not finish within 'limits.probe_timeout_ms', " +
                                    std::to_string(configuration_.limits.probe_timeout.count()) +
                                    " ms, and was killed",
                                false);
  });
}

void ModelLoader::probe_answered(std::uint64_t probe_id, const link::Message* message) {
  const auto found = probes_.find(probe_id);
  if (found == probes_.end() || message == nullptr) return;  // its death decides
  Probe& probe = found->second;
  const GenerationPtr generation = probe.generation;
  probe.answered = true;
  // The next probe need not wait for this one's exit; its own death is not the model's fault.
  probe.process->close_link();
  probe.timer->expires_after(kProbeExitTimeout);
  probe.timer->async_wait([this, probe_id](boost::system::error_code failure) {
    const auto late = probes_.find(probe_id);
    if (!failure && late != probes_.end()) late->second.process->kill("", true);
  });
  const link::ModelLoaded* loaded = message->body_as_ModelLoaded();
  if (loaded != nullptr && loaded->model() != nullptr) {
    const Result<ModelDescription> description = wire::from_wire(*loaded->model());
    if (!description) return fail(generation, description.error(), false);
    proven_.insert({generation->artifact.identity, generation->spec.worker});
    return to_worker(generation);
  }
  const link::ModelFailed* failed = message->body_as_ModelFailed();
  const link::Refused* refused = message->body_as_Refused();
  fail(generation,
       wire::from_wire(failed != nullptr    ? failed->status()
                       : refused != nullptr ? refused->status()
                                            : nullptr),
       false);
}

void ModelLoader::probe_died(std::uint64_t probe_id, const WorkerDeath& death) {
  const auto found = probes_.find(probe_id);
  if (found == probes_.end()) return;
  const GenerationPtr generation = found->second.generation;
  const bool answered = found->second.answered;
  const bool was_asked = found->second.process->is_ready();
  probes_.erase(found);
  if (!answered && was_asked) {
    const Status reason(
        StatusCode::kFailedPrecondition,
        model_text(*generation) + " is quarantined: the process that tried it out " + death.cause);
    condemn(generation, reason);
    fail(generation, reason, true);
  } else if (!answered) {
    fail(generation,
         Status(StatusCode::kInternal, "the process that was to try " + model_text(*generation) +
                                           " out " + death.cause + " before it began"),
         false);
  }
  start_probes();
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
  ask_to_load(*slot.process(), *queue.loading,
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
      observer_.model_loaded(generation, std::move(*description));
    } else {
      fail(generation, description.error(), false);
    }
  } else {
    const link::ModelFailed* failed = message->body_as_ModelFailed();
    const link::Refused* refused = message->body_as_Refused();
    fail(generation,
         wire::from_wire(failed != nullptr    ? failed->status()
                         : refused != nullptr ? refused->status()
                                              : nullptr),
         false);
  }
  load_next(worker);
}

void ModelLoader::worker_ready(WorkerSlot& slot) { load_next(slot.id()); }

void ModelLoader::worker_died(WorkerSlot& slot, const WorkerDeath& death) {
  Queue& queue = queues_[slot.id()];
  queue.timer.reset();
  const GenerationPtr generation = std::exchange(queue.loading, nullptr);
  if (generation == nullptr) return;
  // With nothing executing the load is the only suspect, whatever the page says. If something was
  // executing and nobody is known to have done it, the load gets one more chance.
  const bool is_suspect = !death.by_supervisor && !has_culprit(death);
  const bool is_culprit = is_suspect && (queue.timed_out || death.executing.empty());
  if (is_culprit || (is_suspect && ++generation->deaths_while_loading > 1)) {
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

void ModelLoader::fail(const GenerationPtr& generation, Status reason, bool is_quarantined,
                       const std::string& admin_detail) {
  if (reason.ok()) reason = Status(StatusCode::kInternal, "the worker gave no reason");
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
