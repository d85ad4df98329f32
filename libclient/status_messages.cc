#include "libclient/status_messages.h"

#include <string>

namespace bucketd {
namespace internal {
namespace {

std::string text(const flatbuffers::String* string) {
  return string == nullptr ? std::string() : string->str();
}

ModelState read_state(wire::ModelState state) {
  const auto value = static_cast<std::uint8_t>(state);
  return value <= static_cast<std::uint8_t>(ModelState::kUnloading) ? static_cast<ModelState>(value)
                                                                    : ModelState::kLoading;
}

WorkerState read_state(wire::WorkerState state) {
  const auto value = static_cast<std::uint8_t>(state);
  return value <= static_cast<std::uint8_t>(WorkerState::kStopped) ? static_cast<WorkerState>(value)
                                                                   : WorkerState::kStarting;
}

}  // namespace

std::vector<ModelSummary> read_models(
    const flatbuffers::Vector<flatbuffers::Offset<wire::ModelSummary>>* models) {
  std::vector<ModelSummary> summaries;
  if (models == nullptr) return summaries;
  for (const wire::ModelSummary* model : *models) {
    summaries.push_back({text(model->name()), read_state(model->state()), text(model->reason()),
                         model->worker_id(), model->bucket_count(), model->generation()});
  }
  return summaries;
}

DaemonStatus read_status(const wire::StatusReport& report) {
  DaemonStatus status;
  status.version = text(report.daemon_version());
  status.pid = report.pid();
  status.uptime = std::chrono::milliseconds(report.uptime_ms());
  status.connections = report.connections();
  status.channels = report.channels();
  status.lanes = report.lanes();
  status.sessions = report.sessions();
  status.models = read_models(report.models());
  if (report.workers() == nullptr) return status;
  for (const wire::WorkerReport* worker : *report.workers()) {
    status.workers.push_back({worker->worker_id(), worker->pid(), read_state(worker->state()),
                              worker->incarnation(), worker->restarts(), worker->first_core(),
                              worker->core_count(), worker->completed(), worker->failed(),
                              text(worker->last_death())});
  }
  return status;
}

}  // namespace internal

const char* model_state_name(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return "loading";
    case ModelState::kReady:
      return "ready";
    case ModelState::kFailed:
      return "failed";
    case ModelState::kQuarantined:
      return "quarantined";
    case ModelState::kUnloading:
      return "unloading";
  }
  return "unknown";
}

const char* worker_state_name(WorkerState state) {
  switch (state) {
    case WorkerState::kStarting:
      return "starting";
    case WorkerState::kServing:
      return "serving";
    case WorkerState::kRestarting:
      return "restarting";
    case WorkerState::kStopped:
      return "stopped";
  }
  return "unknown";
}

}  // namespace bucketd
