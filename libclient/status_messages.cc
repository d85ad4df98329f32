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

SessionStatus read_state(wire::SessionState state) {
  const auto value = static_cast<std::uint8_t>(state);
  return value <= static_cast<std::uint8_t>(SessionStatus::kLost)
             ? static_cast<SessionStatus>(value)
             : SessionStatus::kOpen;
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

std::vector<SessionSummary> read_sessions(const wire::SessionList& list) {
  std::vector<SessionSummary> summaries;
  if (list.sessions() == nullptr) return summaries;
  for (const wire::SessionSummary* session : *list.sessions()) {
    SessionSummary& summary = summaries.emplace_back();
    summary.id = text(session->session_id());
    summary.uid = session->uid();
    summary.model = text(session->model());
    summary.status = read_state(session->state());
    summary.scope = session->scope() == wire::SessionScope::kModel ? SessionScope::kModel
                                                                   : SessionScope::kSession;
    summary.state_bytes = session->state_bytes();
    summary.age = std::chrono::milliseconds(session->age_ms());
    summary.idle = std::chrono::milliseconds(session->idle_ms());
    summary.requests = session->requests();
    summary.has_checkpoint = session->has_checkpoint();
    summary.reason = text(session->reason());
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
                              text(worker->last_death()), worker->state_bytes_copied(),
                              worker->state_bytes_written_back()});
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

const char* session_status_name(SessionStatus status) {
  switch (status) {
    case SessionStatus::kOpen:
      return "open";
    case SessionStatus::kIdle:
      return "idle";
    case SessionStatus::kTorn:
      return "torn";
    case SessionStatus::kLost:
      return "lost";
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
