#include <pwd.h>

#include <algorithm>
#include <array>
#include <iomanip>
#include <sstream>

#include "tools/bucketctl/render.h"
#include "tools/bucketctl/text_table.h"

namespace bucketd {
namespace {

// "3d 4h", "4h 5m", "5m 6s", "6 s".
std::string duration_text(std::chrono::milliseconds duration) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  const auto join = [](auto large, const char* large_unit, auto small, const char* small_unit) {
    return std::to_string(large) + large_unit + " " + std::to_string(small) + small_unit;
  };
  if (seconds >= 86400) return join(seconds / 86400, "d", seconds % 86400 / 3600, "h");
  if (seconds >= 3600) return join(seconds / 3600, "h", seconds % 3600 / 60, "m");
  if (seconds >= 60) return join(seconds / 60, "m", seconds % 60, "s");
  return std::to_string(seconds) + " s";
}

// "512 B", "1.5 KiB", "3.0 GiB".
std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  auto value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << value << " " << unit;
  return text.str();
}

// The user's name; the number of one that has none here.
std::string owner_text(std::uint32_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> strings;
  if (::getpwuid_r(uid, &entry, strings.data(), strings.size(), &found) == 0 && found != nullptr) {
    return found->pw_name;
  }
  return std::to_string(uid);
}

std::string cores_text(const WorkerReport& worker) {
  if (worker.core_count == 0) return "-";
  if (worker.core_count == 1) return std::to_string(worker.first_core);
  return std::to_string(worker.first_core) + "-" +
         std::to_string(worker.first_core + worker.core_count - 1);
}

std::string shapes_text(const std::vector<Shape>& shapes) {
  std::string result;
  for (const Shape& shape : shapes) result += (result.empty() ? "" : " ") + shape.to_string();
  return result.empty() ? "-" : result;
}

// "[1, 512], sequence along dimension 1".
std::string state_sizes_text(const StateSpec& state) {
  std::string result = state.shape.to_string();
  if (!state.sequence_dim) return result;
  result += ", sequence along dimension " + std::to_string(*state.sequence_dim);
  if (state.align == PadSide::kLeft) result += ", right-aligned";
  return result;
}

const char* view_text(StateViewKind kind) {
  switch (kind) {
    case StateViewKind::kContiguous:
      return "view, contiguous";
    case StateViewKind::kStrided:
      return "view, strided";
    case StateViewKind::kCopy:
      return "copy";
    case StateViewKind::kUnknown:
      break;
  }
  return "unknown";
}

// How each bucket gets each state, and why. One row for a bucket whose states are all got alike.
std::string state_views_text(const ModelDescription& model) {
  TextTable table({">BUCKET", "STATE", "GOT AS", "WHY"});
  bool is_empty = true;
  for (std::size_t b = 0; b < model.buckets.size(); ++b) {
    const std::vector<StateViewSpec>& views = model.buckets[b].state_views;
    const bool all_alike = std::ranges::all_of(
        views, [&](const StateViewSpec& view) { return view == views.front(); });
    for (std::size_t s = 0; s < views.size(); ++s) {
      std::string name = s < model.states.size() ? model.states[s].name : std::to_string(s);
      if (all_alike && views.size() > 1) name = "all " + std::to_string(views.size());
      table.add_row({std::to_string(b), name, view_text(views[s].kind),
                     views[s].reason.empty() ? "-" : views[s].reason});
      is_empty = false;
      if (all_alike) break;
    }
  }
  return is_empty ? std::string() : "\n" + table.to_string();
}

// Which inputs are copied before buckets read them, and why.
std::string input_uses_text(const ModelDescription& model) {
  if (model.input_uses.empty()) return "";
  TextTable table({"INPUT", "READ", "WHY"});
  for (std::size_t i = 0; i < model.input_uses.size() && i < model.inputs.size(); ++i) {
    const InputUseSpec& use = model.input_uses[i];
    table.add_row({model.inputs[i].name, use.in_place ? "in place" : "from a copy", use.reason});
  }
  return "\n" + table.to_string();
}

const char* side_text(PadSide side) { return side == PadSide::kRight ? "right" : "left"; }

// What sizes input `index` may have: "[1, 1..512]".
std::string accepted_text(const ModelDescription& model, std::size_t index) {
  if (!model.checks_inputs || index >= model.accepted.size()) return "whatever the kernel takes";
  std::string result = "[";
  for (const DimRange& range : model.accepted[index]) {
    if (result.size() > 1) result += ", ";
    result += std::to_string(range.min);
    if (range.max != range.min) result += ".." + std::to_string(range.max);
  }
  return result + "]";
}

// What of a kernel that the author wrote is done by plans.
std::string planning_text(const KernelPlanSpec& planning) {
  switch (planning.kind) {
    case KernelPlanning::kPlanned:
      return ", planned";
    case KernelPlanning::kPartly:
      return ", planned for some sizes only: " + planning.reason;
    case KernelPlanning::kUnplanned:
      return ", run as it is for every request: " + planning.reason;
    case KernelPlanning::kUnknown:
      break;
  }
  return "";
}

std::string kernel_text(const ModelDescription& model) {
  if (model.kernel == KernelKind::kTorchScript) {
    return "TorchScript, written by the author" + planning_text(model.planning);
  }
  std::ostringstream text;
  text << "declarative:";
  for (std::size_t i = 0; i < model.pad.dims.size() && i < model.inputs.size(); ++i) {
    if (model.pad.dims[i].empty()) continue;
    text << " input " << i << " padded with " << model.pad.value[i] << " at the "
         << side_text(model.pad.side[i]) << " of dimension";
    for (std::uint32_t dim : model.pad.dims[i]) text << " " << dim;
    text << ";";
  }
  std::string result = text.str();
  if (result.back() == ';') result.pop_back();
  return result;
}

std::string crop_text(const CropRule& rule) {
  std::ostringstream text;
  text << "output " << rule.output << " dimension " << rule.dim << " follows input " << rule.input
       << " dimension " << rule.input_dim;
  if (rule.numerator != rule.denominator) {
    text << " times " << rule.numerator << "/" << rule.denominator;
  }
  if (rule.side == PadSide::kLeft) text << ", kept at the end";
  return text.str();
}

}  // namespace

std::string models_text(const std::vector<ModelSummary>& models) {
  if (models.empty()) return "no models\n";
  TextTable table({"MODEL", "STATE", ">BUCKETS", ">WORKER", ">GENERATION", "REASON"});
  for (const ModelSummary& model : models) {
    table.add_row({model.name, model_state_name(model.state), std::to_string(model.bucket_count),
                   std::to_string(model.worker_id), std::to_string(model.generation),
                   model.reason.empty() ? "-" : model.reason});
  }
  return table.to_string();
}

std::string status_text(const DaemonStatus& status) {
  std::ostringstream text;
  text << "bucketd " << printable(status.version) << ", pid " << status.pid << ", up "
       << duration_text(status.uptime) << "\n"
       << status.connections << " connections, " << status.channels << " channels, " << status.lanes
       << " lanes, " << status.sessions << " sessions\n\n";
  TextTable workers({">WORKER", ">PID", "STATE", "CORES", ">INCARNATION", ">RESTARTS", ">COMPLETED",
                     ">FAILED", "LAST DEATH"});
  for (const WorkerReport& worker : status.workers) {
    workers.add_row({std::to_string(worker.worker_id), std::to_string(worker.pid),
                     worker_state_name(worker.state), cores_text(worker),
                     std::to_string(worker.incarnation), std::to_string(worker.restarts),
                     std::to_string(worker.completed), std::to_string(worker.failed),
                     worker.last_death.empty() ? "-" : worker.last_death});
  }
  text << workers.to_string();
  for (const WorkerReport& worker : status.workers) {
    if (worker.state_bytes_copied == 0) continue;
    text << "worker " << worker.worker_id << " copied " << bytes_text(worker.state_bytes_copied)
         << " of state for buckets whose slices are no views (see describe)\n";
  }
  text << "\n" << models_text(status.models);
  return text.str();
}

std::string sessions_text(const SessionListing& listing) {
  if (listing.sessions.empty()) return "no sessions\n";
  TextTable table({"SESSION", "OWNER", "MODEL", "SCOPE", "STATE", ">BYTES", ">AGE", ">IDLE",
                   ">REQUESTS", "CHECKPOINT", "REASON"});
  for (const SessionSummary& session : listing.sessions) {
    table.add_row({session.id.empty() ? "-" : session.id, owner_text(session.uid), session.model,
                   session.scope == SessionScope::kModel ? "model" : "session",
                   session_status_name(session.status), bytes_text(session.state_bytes),
                   duration_text(session.age), duration_text(session.idle),
                   std::to_string(session.requests), session.has_checkpoint ? "yes" : "no",
                   session.reason.empty() ? "-" : session.reason});
  }
  return table.to_string() +
         (listing.is_complete ? "" : "and more, which the daemon could not list at once\n");
}

std::string description_text(const ModelDescription& model) {
  std::ostringstream text;
  text << "model     " << printable(model.name) << "\n"
       << "backend   " << printable(model.backend) << "\n"
       << "producer  " << printable(model.producer) << "\n"
       << "digest    " << (model.digest.empty() ? "-" : printable(model.digest)) << "\n"
       << "kernel    " << kernel_text(model) << "\n";
  for (const CropRule& rule : model.crop) text << "crop      " << crop_text(rule) << "\n";

  TextTable tensors({"TENSOR", "NAME", "DTYPE", "SIZES"});
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    tensors.add_row({"input " + std::to_string(i), model.inputs[i].name,
                     std::string(dtype_name(model.inputs[i].dtype)), accepted_text(model, i)});
  }
  for (std::size_t i = 0; i < model.outputs.size(); ++i) {
    tensors.add_row({"output " + std::to_string(i), model.outputs[i].name,
                     std::string(dtype_name(model.outputs[i].dtype)), "by bucket"});
  }
  for (std::size_t i = 0; i < model.states.size(); ++i) {
    tensors.add_row({"state " + std::to_string(i), model.states[i].name,
                     std::string(dtype_name(model.states[i].dtype)),
                     state_sizes_text(model.states[i])});
  }
  TextTable buckets({">BUCKET", "INPUTS", "OUTPUTS", "STATES"});
  for (std::size_t b = 0; b < model.buckets.size(); ++b) {
    buckets.add_row({std::to_string(b), shapes_text(model.buckets[b].inputs),
                     shapes_text(model.buckets[b].outputs), shapes_text(model.buckets[b].states)});
  }
  text << "\n"
       << tensors.to_string() << "\n"
       << buckets.to_string() << input_uses_text(model) << state_views_text(model);
  return text.str();
}

}  // namespace bucketd
