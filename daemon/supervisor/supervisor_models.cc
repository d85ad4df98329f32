// The Supervisor's models and workers: what loads, deaths and unloads mean for everybody else.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "daemon/supervisor/service_notification.h"
#include "daemon/supervisor/supervisor.h"

namespace bucketd::supervisor {
namespace {

// A worker that died this often without getting ready does not keep the service from being ready.
constexpr std::uint32_t kHopelessStarts = 3;

}  // namespace

// --- models ---

void Supervisor::load_configured_models() {
  for (const ModelConfiguration& model : configuration_.models) {
    const Result<GenerationPtr> generation =
        registry_.begin_load({model.name, model.path, model.worker, model.execution_limit,
                              model.slots, model.state_scope, model.share_across_users, false});
    if (generation) {
      loader_.load(*generation);
    } else {
      spdlog::error("{}: {}", model.path, generation.error().message());
    }
  }
}

Result<GenerationPtr> Supervisor::load_model(const std::string& path, const std::string& name) {
  if (draining_) {
    return error(StatusCode::kUnavailable, "the daemon is draining: it loads nothing any more");
  }
  if (!name.empty() && !is_model_name(name)) {
    return error(StatusCode::kInvalidArgument,
                 "a model's name has 1 to 64 characters of [A-Za-z0-9_.-]");
  }
  ModelSpec spec{.name = name,
                 .path = path,
                 .execution_limit = ModelConfiguration().execution_limit,
                 .may_replace = true};
  const auto configured =
      std::find_if(configuration_.models.begin(), configuration_.models.end(),
                   [&](const ModelConfiguration& model) {
                     return name.empty() ? model.path == path : model.name == name;
                   });
  const ModelRecord* record = name.empty() ? nullptr : registry_.find(name);
  if (record != nullptr && record->serving != nullptr) {
    // A reload keeps what the model was given before.
    spec.worker = record->serving->spec.worker;
    spec.execution_limit = record->serving->spec.execution_limit;
    spec.slots = record->serving->spec.slots;
    spec.state_scope = record->serving->spec.state_scope;
    spec.share_across_users = record->serving->spec.share_across_users;
  } else if (configured != configuration_.models.end()) {
    spec.worker = configured->worker;
    spec.execution_limit = configured->execution_limit;
    spec.slots = configured->slots;
    spec.state_scope = configured->state_scope;
    spec.share_across_users = configured->share_across_users;
    if (name.empty()) spec.name = configured->name;
  }
  Result<GenerationPtr> generation = registry_.begin_load(std::move(spec));
  if (!generation) return generation;
  loader_.forgive(path);
  loader_.load(*generation);
  changed();
  return generation;
}

Result<GenerationPtr> Supervisor::unload_model(const std::string& name) {
  const ModelRecord* record = registry_.find(name);
  const GenerationPtr serving = record == nullptr ? nullptr : record->serving;
  Result<GenerationPtr> unloading = registry_.begin_unload(name);
  if (!unloading) return unloading;
  crash_accounts_.forget(name);
  if (*unloading != nullptr) {
    ask_to_unload(*unloading);
  } else {
    if (serving != nullptr) loader_.cancel(serving->model_id);
    sessions_changed(name);
  }
  changed();
  return unloading;
}

void Supervisor::ask_to_unload(const GenerationPtr& generation) {
  WorkerProcess* process = worker_slot(generation->spec.worker).process();
  if (process == nullptr) return;
  process->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateUnloadModel(builder, generation->model_id);
      },
      {},
      [this, generation](const link::Message* message) {
        // After a death, worker_died() has seen to it.
        if (message != nullptr) generation_unloaded(generation);
      });
}

void Supervisor::generation_unloaded(const GenerationPtr& generation) {
  tell_lanes_closed(broker_.model_unloaded(generation->model_id));
  registry_.unloaded(generation->model_id);
  sessions_changed(generation->name);
  service_.model_finished(generation->model_id, Status());
  changed();
}

void Supervisor::sessions_changed(const std::string& model) {
  const ModelRecord* record = registry_.find(model);
  const bool is_gone = record == nullptr || record->serving == nullptr;
  if (!is_gone && !record->serving->is_on_worker) return;  // until its worker has it again
  sessions_.model_changed(model, is_gone ? nullptr : record->serving, [&](std::uint32_t model_id) {
    return registry_.generation(model_id) != nullptr;
  });
}

void Supervisor::model_loaded(const GenerationPtr& generation, ModelDescription description) {
  Result<ModelRegistry::Success> success =
      registry_.load_succeeded(generation->model_id, std::move(description));
  if (!success) {
    ask_to_unload(generation);
    service_.model_finished(generation->model_id, success.error());
    return changed();
  }
  spdlog::info("model '{}' is ready: generation {} on worker {}", generation->name,
               generation->number, generation->spec.worker);
  if (success->is_first) crash_accounts_.forget(generation->name);
  if (success->replaced != nullptr) ask_to_unload(success->replaced);
  sessions_changed(generation->name);  // before lanes: their requests name sessions
  service_.model_finished(generation->model_id, Status());
  changed();
}

void Supervisor::model_failed(const GenerationPtr& generation, const Status& reason,
                              bool is_quarantined, const std::string& admin_detail) {
  registry_.load_failed(generation->model_id, reason, is_quarantined, admin_detail);
  const ModelRecord* record = registry_.find(generation->name);
  // Sessions of a model that cannot serve any more end; a candidate may still take them over.
  if (record != nullptr && record->candidate == nullptr) sessions_changed(generation->name);
  // Only administrators ask for loads.
  service_.model_finished(generation->model_id,
                          admin_detail.empty() ? reason : Status(reason.code(), admin_detail));
  changed();
}

void Supervisor::changed() {
  service_.models_changed();
  const bool settled =
      std::all_of(registry_.models().begin(), registry_.models().end(), [&](const auto& item) {
        const ModelRecord& record = item.second;
        if (record.state != ModelState::kLoading) return true;
        const GenerationPtr& awaited =
            record.candidate != nullptr ? record.candidate : record.serving;
        return worker_slot(awaited->spec.worker).failed_starts() >= kHopelessStarts;
      });
  const auto ready =
      std::count_if(registry_.models().begin(), registry_.models().end(),
                    [](const auto& item) { return item.second.state == ModelState::kReady; });
  if (draining_) return;
  if (settled && !ready_told_) {
    ready_told_ = true;
    notify_ready();
    spdlog::info("ready: {} of {} models serve", ready, registry_.models().size());
  }
  const std::string text =
      std::to_string(ready) + " of " + std::to_string(registry_.models().size()) + " models serve";
  if (std::exchange(status_told_, text) != text) notify_status(text);
}

// --- workers ---

std::uint64_t Supervisor::next_incarnation() { return next_incarnation_++; }

void Supervisor::worker_ready(WorkerSlot& slot) {
  loader_.worker_ready(slot);
  changed();
}

std::string Supervisor::describe_death(const WorkerDeath& death) const {
  std::string text = death.cause;
  std::vector<std::string> models;
  for (const ExecutingAtDeath& request : death.executing) {
    const GenerationPtr generation = registry_.generation(request.model_id);
    if (generation == nullptr) continue;
    const std::string quoted = "'" + generation->name + "'";
    if (std::find(models.begin(), models.end(), quoted) == models.end()) models.push_back(quoted);
  }
  for (std::size_t i = 0; i < models.size(); ++i) {
    text += (i == 0 ? (models.size() == 1 ? " while executing model " : " while executing models ")
                    : ", ") +
            models[i];
  }
  if (death.loading_model_id != 0) {
    const GenerationPtr generation = registry_.generation(death.loading_model_id - 1);
    if (generation != nullptr) text += " while loading model '" + generation->name + "'";
  }
  return text;
}

void Supervisor::worker_died(WorkerSlot& slot, const WorkerDeath& raw_death) {
  WorkerDeath death = raw_death;
  const std::vector<ChannelEnd> ends = broker_.worker_died(slot, death);
  const std::vector<SessionTable::OperationAtDeath> operations =
      sessions_.operations_at_death(slot.id(), death.executing);
  std::erase_if(death.executing, [&](const ExecutingAtDeath& executing) {
    return executing.kind != ExecutionKind::kRequest &&
           std::none_of(operations.begin(), operations.end(), [&](const auto& known) {
             return known.operation.executor == executing.executor;
           });
  });
  const std::string text = describe_death(death);
  const std::string subject = "worker " + std::to_string(slot.id());
  slot.set_last_death(text);
  if (finishing_) {
    spdlog::info("{} {}", subject, text);
  } else {
    spdlog::error("{} {}", subject, text);
  }
  tell_channels_closed(ends, Status(StatusCode::kUnavailable, subject + " " + text));
  charge_death(slot, death, ends, operations);
  sessions_.worker_died(slot.id(), ends, operations);
  loader_.worker_died(slot, death);
  std::vector<GenerationPtr> unloading;
  for (const auto& [name, record] : registry_.models()) {
    if (record.state == ModelState::kUnloading && record.serving->spec.worker == slot.id()) {
      unloading.push_back(record.serving);
    }
  }
  for (const GenerationPtr& generation : registry_.worker_lost(slot.id())) {
    loader_.load(generation);
  }
  for (const GenerationPtr& generation : unloading) {
    sessions_changed(generation->name);
    service_.model_finished(generation->model_id, Status());
  }
  changed();
  if (!draining_) return;
  asio::post(context_, [this, worker = slot.id()] {  // once the slot has let go of the process
    finishing_ ? stop_if_all_dead() : worker_drained(worker);
  });
}

void Supervisor::charge_death(const WorkerSlot& slot, const WorkerDeath& death,
                              const std::vector<ChannelEnd>& ends,
                              const std::vector<SessionTable::OperationAtDeath>& operations) {
  if (death.by_supervisor) return;
  const bool is_known = has_culprit(death);
  const std::uint32_t shares = suspect_count(death);
  const auto charge = [&](uid_t uid, const ExecutingAtDeath& suspect) {
    if (is_known && !suspect.is_culprit) return;
    const GenerationPtr generation = registry_.generation(suspect.model_id);
    if (generation == nullptr) return;
    crash_accounts_.charge(uid, generation->name, shares, Clock::now());
    spdlog::warn("{} of the death of worker {} is charged to uid {} on model '{}'",
                 shares == 1 ? "all" : "1/" + std::to_string(shares), slot.id(), uid,
                 generation->name);
  };
  for (const ChannelEnd& end : ends) {
    for (const ExecutingAtDeath& request : end.executing) charge(end.uid, request);
  }
  for (const auto& [uid, operation] : operations) charge(uid, operation);
}

void Supervisor::worker_event(WorkerSlot& slot, const link::Message& message) {
  if (const link::Violation* violation = message.body_as_Violation()) {
    const auto connection_id = broker_.connection_of(slot, violation->channel_id());
    if (!connection_id) return;
    end_connection(*connection_id,
                   "the client broke the channel's rules: " +
                       (violation->reason() != nullptr ? violation->reason()->str()
                                                       : std::string("no reason given")));
  } else if (const link::LaneClosed* lane = message.body_as_LaneClosed()) {
    tell_lanes_closed(broker_.ended_by_worker(slot, lane->channel_id(), lane->lane_id()));
  } else if (const link::ChannelClosed* channel = message.body_as_ChannelClosed()) {
    tell_lanes_closed(broker_.ended_by_worker(slot, channel->channel_id(), std::nullopt));
  }
}

std::optional<WorkerSlot::Observer::Limit> Supervisor::execution_limit(const WorkerSlot& slot,
                                                                       std::uint32_t model_id) {
  const GenerationPtr generation = registry_.generation(model_id);
  if (generation == nullptr || generation->spec.worker != slot.id()) return std::nullopt;
  return Limit{generation->spec.execution_limit, generation->name};
}

std::chrono::milliseconds Supervisor::smallest_execution_limit(const WorkerSlot& slot) {
  return registry_.smallest_execution_limit(slot.id(), ModelConfiguration().execution_limit);
}

bool Supervisor::has_clients(const WorkerSlot& slot) {
  return broker_.has_channels(slot) || sessions_.has_work_for(slot.id());
}

}  // namespace bucketd::supervisor
