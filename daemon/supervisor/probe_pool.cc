#include "daemon/supervisor/probe_pool.h"

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
// Artifacts that one probe tries; bounds what libraries leave behind.
constexpr std::uint32_t kMaxAnswers = 32;
// How long a probe waits for the next artifact.
constexpr std::chrono::seconds kIdleTime{3};
// A probe exits when its link closes; it is not waited for longer.
constexpr std::chrono::seconds kExitTimeout{5};

std::string model_text(const Generation& generation) { return "model '" + generation.name + "'"; }

}  // namespace

ProbePool::ProbePool(asio::io_context& context, std::chrono::milliseconds timeout,
                     LaunchOf launch_of, Done done)
    : context_(context),
      timeout_(timeout),
      launch_of_(std::move(launch_of)),
      done_(std::move(done)) {}

void ProbePool::stop() {
  tasks_.clear();
  probes_.clear();
}

void ProbePool::probe(GenerationPtr generation) {
  tasks_.push_back({std::move(generation), false});
  asio::post(context_, [this] { give_out_work(); });
}

bool ProbePool::is_under_way(std::uint32_t model_id) const {
  return std::any_of(tasks_.begin(), tasks_.end(),
                     [&](const Task& task) { return task.generation->model_id == model_id; }) ||
         std::any_of(probes_.begin(), probes_.end(), [&](const auto& item) {
           const GenerationPtr& generation = item.second.generation;
           return generation != nullptr && generation->model_id == model_id;
         });
}

std::size_t ProbePool::busy_count() const {
  return static_cast<std::size_t>(
      std::count_if(probes_.begin(), probes_.end(),
                    [](const auto& item) { return item.second.generation != nullptr; }));
}

void ProbePool::give_out_work() {
  while (begin_one()) {
  }
}

bool ProbePool::begin_one() {
  if (tasks_.empty() || busy_count() >= kMaxProbes) return false;
  const Task task = tasks_.front();
  tasks_.pop_front();
  for (auto& [id, probe] : probes_) {
    const bool is_free = probe.generation == nullptr && !probe.is_closing;
    if (task.needs_fresh_probe || !is_free || probe.worker != task.generation->spec.worker) {
      continue;
    }
    assign(id, probe, task.generation);
    return true;
  }
  start(task.generation);
  return true;
}

void ProbePool::start(const GenerationPtr& generation) {
  const std::uint64_t id = next_probe_id_++;
  Result<std::shared_ptr<WorkerProcess>> process = WorkerProcess::start(
      context_, launch_of_(generation->spec.worker),
      {[this, id] {
         const auto found = probes_.find(id);
         if (found != probes_.end()) ask(id, found->second);
       },
       [](const link::Message&) {}, [this, id](const WorkerDeath& death) { died(id, death); }});
  if (!process) {
    const Verdict verdict{
        Status(process.error().code(), "the artifact of " + model_text(*generation) +
                                           " cannot be tried out; the daemon's log says why"),
        false, process.error().to_string()};
    return done_(generation, verdict);
  }
  Probe& probe = probes_[id];
  probe.worker = generation->spec.worker;
  probe.process = std::move(*process);
  probe.timer = std::make_unique<asio::steady_timer>(context_);
  assign(id, probe, generation);
}

void ProbePool::assign(std::uint64_t probe_id, Probe& probe, const GenerationPtr& generation) {
  spdlog::debug("{}: tried out by process {}", model_text(*generation), probe.process->pid());
  probe.generation = generation;
  probe.timer->expires_after(timeout_);
  probe.timer->async_wait([this, probe_id](boost::system::error_code failure) {
    const auto found = probes_.find(probe_id);
    if (failure || found == probes_.end() || found->second.generation == nullptr) return;
    found->second.process->kill("did not finish within 'limits.probe_timeout_ms', " +
                                    std::to_string(timeout_.count()) + " ms, and was killed",
                                false);
  });
  if (probe.process->is_ready()) ask(probe_id, probe);
}

void ProbePool::ask(std::uint64_t probe_id, Probe& probe) {
  if (probe.generation == nullptr) return;
  ask_to_load(*probe.process, *probe.generation,
              [this, probe_id](const link::Message* message) { answered(probe_id, message); });
}

void ProbePool::ask_to_load(WorkerProcess& process, const Generation& generation,
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

Status ProbePool::refusal_of(const link::Message& message) {
  const link::ModelFailed* failed = message.body_as_ModelFailed();
  const link::Refused* refused = message.body_as_Refused();
  Status status = wire::from_wire(failed != nullptr    ? failed->status()
                                  : refused != nullptr ? refused->status()
                                                       : nullptr);
  if (!status.ok()) return status;
  return Status(StatusCode::kInternal, "the worker gave no reason");
}

void ProbePool::answered(std::uint64_t probe_id, const link::Message* message) {
  const auto found = probes_.find(probe_id);
  if (found == probes_.end() || message == nullptr) return;  // its death decides
  Probe& probe = found->second;
  const GenerationPtr generation = std::exchange(probe.generation, nullptr);
  if (generation == nullptr) return;
  Verdict verdict;
  const link::ModelLoaded* loaded = message->body_as_ModelLoaded();
  if (loaded != nullptr && loaded->model() != nullptr) {
    const Result<ModelDescription> description = wire::from_wire(*loaded->model());
    if (!description) verdict.reason = description.error();
    probe.process->ask(
        [&](flatbuffers::FlatBufferBuilder& builder) {
          return link::CreateUnloadModel(builder, generation->model_id);
        },
        {}, [](const link::Message*) {});
  } else {
    verdict.reason = refusal_of(*message);
  }
  if (++probe.answers >= kMaxAnswers) {
    close(probe_id, probe);
  } else {
    probe.timer->expires_after(kIdleTime);
    probe.timer->async_wait([this, probe_id](boost::system::error_code failure) {
      const auto idle = probes_.find(probe_id);
      if (failure || idle == probes_.end() || idle->second.generation != nullptr) return;
      close(probe_id, idle->second);
    });
  }
  asio::post(context_, [this] { give_out_work(); });
  done_(generation, verdict);
}

void ProbePool::close(std::uint64_t probe_id, Probe& probe) {
  probe.is_closing = true;
  probe.process->close_link();
  probe.timer->expires_after(kExitTimeout);
  probe.timer->async_wait([this, probe_id](boost::system::error_code failure) {
    const auto late = probes_.find(probe_id);
    if (!failure && late != probes_.end()) late->second.process->kill("", true);
  });
}

void ProbePool::died(std::uint64_t probe_id, const WorkerDeath& death) {
  const auto found = probes_.find(probe_id);
  if (found == probes_.end()) return;
  const Probe probe = std::move(found->second);
  probes_.erase(found);
  asio::post(context_, [this] { give_out_work(); });
  if (probe.generation == nullptr) return;  // idle: nobody's business
  if (probe.answers > 0) {
    spdlog::warn("{}: the process that tried it out after {} others {}; it gets a fresh one",
                 model_text(*probe.generation), probe.answers, death.cause);
    tasks_.push_front({probe.generation, true});
    return;
  }
  Verdict verdict;
  if (probe.process->is_ready()) {
    verdict.is_quarantined = true;
    verdict.reason =
        Status(StatusCode::kFailedPrecondition, model_text(*probe.generation) +
                                                    " is quarantined: the process that tried it "
                                                    "out " +
                                                    death.cause);
  } else {
    verdict.reason = Status(StatusCode::kInternal, "the process that was to try " +
                                                       model_text(*probe.generation) + " out " +
                                                       death.cause + " before it began");
  }
  done_(probe.generation, verdict);
}

}  // namespace bucketd::supervisor
