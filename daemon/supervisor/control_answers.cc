// Requests of the control protocol that are answered without waiting for a model.
#include <unistd.h>

#include "common/channel_layout.h"
#include "daemon/supervisor/control_message.h"
#include "daemon/supervisor/control_service.h"
#include "daemon/supervisor/version.h"

namespace bucketd::supervisor {
namespace {

constexpr std::uint64_t kFeatures = kFeatureRing | kFeatureStream;

}  // namespace

void ControlService::hello(ControlConnection& connection, std::uint64_t request_id,
                           const wire::Hello& hello) {
  connection.set_client_name(text_of(hello.client_name()));
  if (hello.major() != kProtocolMajor) {
    connection.send(error_message(
        request_id,
        Status(StatusCode::kFailedPrecondition,
               "this daemon (bucketd " + std::string(kVersion) + ") speaks protocol version " +
                   std::to_string(kProtocolMajor) + ", the client version " +
                   std::to_string(hello.major()) + "; install a client of the same version")));
    return connection.close("the client speaks protocol version " + std::to_string(hello.major()));
  }
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateWelcome(builder, kProtocolMajor, kProtocolMinor,
                               hello.features() & kFeatures, builder.CreateString(kVersion),
                               daemon_.incarnation(), connection.is_admin());
  }));
}

flatbuffers::Offset<wire::ModelSummary> ControlService::summary(
    flatbuffers::FlatBufferBuilder& builder, const ModelRecord& record, bool is_admin) const {
  const GenerationPtr& shown = record.serving != nullptr ? record.serving : record.candidate;
  std::string reason = record.reason.ok() ? std::string() : record.reason.message();
  if (is_admin && !record.admin_detail.empty()) reason = record.admin_detail;
  if (record.state == ModelState::kLoading && record.serving != nullptr) {
    reason = "its worker is starting again";
  }
  const std::uint32_t buckets =
      record.serving != nullptr && record.serving->description
          ? static_cast<std::uint32_t>(record.serving->description->buckets.size())
          : 0;
  return wire::CreateModelSummary(
      builder, builder.CreateString(record.name), static_cast<wire::ModelState>(record.state),
      builder.CreateString(reason), shown != nullptr ? shown->spec.worker : 0, buckets,
      shown != nullptr ? shown->number : 0);
}

void ControlService::list_models(ControlConnection& connection, std::uint64_t request_id) {
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    std::vector<flatbuffers::Offset<wire::ModelSummary>> models;
    for (const auto& [name, record] : registry_.models()) {
      models.push_back(summary(builder, record, connection.is_admin()));
    }
    return wire::CreateModelList(builder, builder.CreateVector(models));
  }));
}

void ControlService::describe(ControlConnection& connection, std::uint64_t request_id,
                              const std::string& model) {
  const ModelRecord* record = registry_.find(model);
  if (record == nullptr) {
    return connection.send(error_message(request_id, registry_.not_found(model)));
  }
  if (record->serving == nullptr || !record->serving->description) {
    const Status reason =
        record->reason.ok()
            ? Status(StatusCode::kUnavailable, "model '" + model + "' is still being loaded")
            : Status(StatusCode::kFailedPrecondition, record->reason.message());
    return connection.send(error_message(request_id, reason));
  }
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateDescribed(builder, wire::to_wire(builder, *record->serving->description));
  }));
}

void ControlService::report_status(ControlConnection& connection, std::uint64_t request_id) {
  connection.send(control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    std::vector<flatbuffers::Offset<wire::WorkerReport>> workers;
    for (const std::unique_ptr<WorkerSlot>& slot : daemon_.worker_slots()) {
      workers.push_back(wire::CreateWorkerReport(
          builder, slot->id(), slot->process() == nullptr ? 0 : slot->process()->pid(),
          static_cast<wire::WorkerState>(slot->state()), slot->incarnation(), slot->restarts(),
          slot->configuration().first_core, slot->configuration().cores, slot->completed(),
          slot->failed(), builder.CreateString(slot->last_death()), slot->state_bytes_copied(),
          slot->state_bytes_written_back()));
    }
    std::vector<flatbuffers::Offset<wire::ModelSummary>> models;
    for (const auto& [name, record] : registry_.models()) {
      models.push_back(summary(builder, record, connection.is_admin()));
    }
    const auto worker_vector = builder.CreateVector(workers);
    const auto model_vector = builder.CreateVector(models);
    return wire::CreateStatusReport(builder, builder.CreateString(kVersion), ::getpid(),
                                    static_cast<std::uint64_t>(daemon_.uptime().count()),
                                    static_cast<std::uint32_t>(daemon_.connection_count()),
                                    static_cast<std::uint32_t>(broker_.channel_count()),
                                    static_cast<std::uint32_t>(broker_.lane_count()),
                                    static_cast<std::uint32_t>(sessions_.count()), worker_vector,
                                    model_vector);
  }));
}

}  // namespace bucketd::supervisor
