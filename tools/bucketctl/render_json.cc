#include <nlohmann/json.hpp>

#include "tools/bucketctl/render.h"

namespace bucketd {
namespace {

using nlohmann::json;

json shape_json(const Shape& shape) {
  json dims = json::array();
  for (std::int64_t dim : shape.dims()) dims.push_back(dim);
  return dims;
}

json shapes_json(const std::vector<Shape>& shapes) {
  json result = json::array();
  for (const Shape& shape : shapes) result.push_back(shape_json(shape));
  return result;
}

json tensor_json(const TensorSpec& tensor) {
  return {{"name", tensor.name}, {"dtype", dtype_name(tensor.dtype)}};
}

json worker_json(const WorkerReport& worker) {
  return {{"worker", worker.worker_id},
          {"pid", worker.pid},
          {"state", worker_state_name(worker.state)},
          {"incarnation", worker.incarnation},
          {"restarts", worker.restarts},
          {"first_core", worker.first_core},
          {"cores", worker.core_count},
          {"completed", worker.completed},
          {"failed", worker.failed},
          {"last_death", worker.last_death},
          {"state_bytes_copied", worker.state_bytes_copied},
          {"state_bytes_written_back", worker.state_bytes_written_back}};
}

// "strided": the word stands for StateViewKind in JSON.
const char* view_name(StateViewKind kind) {
  switch (kind) {
    case StateViewKind::kUnknown:
      return "unknown";
    case StateViewKind::kContiguous:
      return "contiguous";
    case StateViewKind::kStrided:
      return "strided";
    case StateViewKind::kCopy:
      return "copy";
  }
  return "unknown";
}

json views_json(const BucketSpec& bucket) {
  json views = json::array();
  for (const StateViewSpec& view : bucket.state_views) {
    views.push_back({{"kind", view_name(view.kind)}, {"reason", view.reason}});
  }
  return views;
}

const char* side_name(PadSide side) { return side == PadSide::kRight ? "right" : "left"; }

const char* planning_name(KernelPlanning planning) {
  switch (planning) {
    case KernelPlanning::kPlanned:
      return "planned";
    case KernelPlanning::kPartly:
      return "partly";
    case KernelPlanning::kUnplanned:
      return "unplanned";
    case KernelPlanning::kUnknown:
      break;
  }
  return "unknown";
}

json kernel_json(const ModelDescription& model) {
  if (model.kernel == KernelKind::kTorchScript) {
    return {{"type", "torchscript"},
            {"planning", planning_name(model.planning.kind)},
            {"planning_reason", model.planning.reason}};
  }
  json sides = json::array();
  for (PadSide side : model.pad.side) sides.push_back(side_name(side));
  return {{"type", "pad"}, {"dims", model.pad.dims}, {"value", model.pad.value}, {"side", sides}};
}

}  // namespace

json models_json(const std::vector<ModelSummary>& models) {
  json list = json::array();
  for (const ModelSummary& model : models) {
    list.push_back({{"name", model.name},
                    {"state", model_state_name(model.state)},
                    {"reason", model.reason},
                    {"worker", model.worker_id},
                    {"buckets", model.bucket_count},
                    {"generation", model.generation}});
  }
  return {{"models", list}};
}

json sessions_json(const SessionListing& listing) {
  json list = json::array();
  for (const SessionSummary& session : listing.sessions) {
    list.push_back({{"id", session.id},
                    {"uid", session.uid},
                    {"model", session.model},
                    {"state", session_status_name(session.status)},
                    {"scope", session.scope == SessionScope::kModel ? "model" : "session"},
                    {"bytes", session.state_bytes},
                    {"age_ms", session.age.count()},
                    {"idle_ms", session.idle.count()},
                    {"requests", session.requests},
                    {"has_checkpoint", session.has_checkpoint},
                    {"reason", session.reason}});
  }
  return {{"sessions", list}, {"is_complete", listing.is_complete}};
}

json status_json(const DaemonStatus& status) {
  json workers = json::array();
  for (const WorkerReport& worker : status.workers) workers.push_back(worker_json(worker));
  json result = models_json(status.models);
  result["version"] = status.version;
  result["pid"] = status.pid;
  result["uptime_ms"] = status.uptime.count();
  result["connections"] = status.connections;
  result["channels"] = status.channels;
  result["lanes"] = status.lanes;
  result["sessions"] = status.sessions;
  result["workers"] = workers;
  return result;
}

json description_json(const ModelDescription& model) {
  json inputs = json::array();
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    json input = tensor_json(model.inputs[i]);
    if (model.checks_inputs && i < model.accepted.size()) {
      json ranges = json::array();
      for (const DimRange& range : model.accepted[i]) {
        ranges.push_back({{"min", range.min}, {"max", range.max}});
      }
      input["accepted"] = ranges;
    }
    if (i < model.input_uses.size()) {
      input["in_place"] = model.input_uses[i].in_place;
      input["in_place_reason"] = model.input_uses[i].reason;
    }
    inputs.push_back(input);
  }
  json outputs = json::array();
  for (const TensorSpec& output : model.outputs) outputs.push_back(tensor_json(output));
  json states = json::array();
  for (const StateSpec& state : model.states) {
    json entry = {{"name", state.name},
                  {"dtype", dtype_name(state.dtype)},
                  {"shape", shape_json(state.shape)}};
    if (state.sequence_dim) {
      entry["sequence_dim"] = *state.sequence_dim;
      entry["align"] = state.align == PadSide::kRight ? "left" : "right";
    }
    states.push_back(entry);
  }
  json aliases = json::array();
  for (const AliasSpec& alias : model.aliases) {
    aliases.push_back({{"state", alias.state}, {"output", alias.output}});
  }
  json buckets = json::array();
  for (const BucketSpec& bucket : model.buckets) {
    buckets.push_back({{"inputs", shapes_json(bucket.inputs)},
                       {"outputs", shapes_json(bucket.outputs)},
                       {"states", shapes_json(bucket.states)},
                       {"state_views", views_json(bucket)}});
  }
  json crop = json::array();
  for (const CropRule& rule : model.crop) {
    crop.push_back({{"output", rule.output},
                    {"dim", rule.dim},
                    {"input", rule.input},
                    {"input_dim", rule.input_dim},
                    {"side", side_name(rule.side)},
                    {"numerator", rule.numerator},
                    {"denominator", rule.denominator}});
  }
  return {{"name", model.name},
          {"backend", model.backend},
          {"producer", model.producer},
          {"digest", model.digest},
          {"inputs", inputs},
          {"outputs", outputs},
          {"states", states},
          {"aliases", aliases},
          {"buckets", buckets},
          {"crop", crop},
          {"kernel", kernel_json(model)},
          {"preprocessor", model.has_preprocessor},
          {"checks_inputs", model.checks_inputs}};
}

json error_json(const Status& status) {
  return {{"error", {{"code", status_code_name(status.code())}, {"message", status.message()}}}};
}

}  // namespace bucketd
