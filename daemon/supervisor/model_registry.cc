#include "daemon/supervisor/model_registry.h"

#include <algorithm>
#include <utility>

namespace bucketd::supervisor {
namespace {

std::string model_text(const std::string& name) { return "model '" + name + "'"; }

// Longest list of names in an error.
constexpr std::size_t kMaxNamesListed = 32;

}  // namespace

std::string ModelRegistry::free_provisional_name(const std::string& path) const {
  const std::string stem = provisional_model_name(path);
  std::string name = stem;
  for (int i = 2; models_.contains(name); ++i) name = stem + "-" + std::to_string(i);
  return name;
}

Result<GenerationPtr> ModelRegistry::begin_load(ModelSpec spec) {
  const bool has_own_name = !spec.name.empty();
  const std::string name = has_own_name ? spec.name : free_provisional_name(spec.path);
  ModelRecord& record = models_[name];
  record.name = name;
  if (record.candidate != nullptr) {
    return error(StatusCode::kFailedPrecondition, model_text(name) + " is being loaded already");
  }
  if (record.state == ModelState::kUnloading) {
    return error(StatusCode::kFailedPrecondition, model_text(name) + " is being unloaded");
  }
  if (record.serving != nullptr && !spec.may_replace) {
    return error(StatusCode::kAlreadyExists, model_text(name) + " is there already");
  }
  record.candidate = std::make_shared<Generation>();
  record.candidate->model_id = next_model_id_++;
  record.candidate->number = next_number_++;
  record.candidate->spec = std::move(spec);
  record.candidate->name = name;
  record.candidate->has_own_name = has_own_name;
  if (record.serving == nullptr) {
    record.state = ModelState::kLoading;
    record.reason = Status();
  }
  return record.candidate;
}

ModelRecord* ModelRegistry::find_by_id(std::uint32_t model_id) {
  const auto is_it = [&](const GenerationPtr& generation) {
    return generation != nullptr && generation->model_id == model_id;
  };
  for (auto& [name, record] : models_) {
    if (is_it(record.serving) || is_it(record.candidate)) return &record;
  }
  return nullptr;
}

// Gives the candidate of `record` its own name; `record` is then the one of that name.
Status ModelRegistry::rename(ModelRecord*& record, const std::string& name) {
  const GenerationPtr candidate = record->candidate;
  ModelRecord* other = nullptr;
  if (const auto found = models_.find(name); found != models_.end()) other = &found->second;
  if (other == record) {
    candidate->has_own_name = true;
    return Status();
  }
  if (!is_model_name(name)) {
    return Status(StatusCode::kInvalidArgument,
                  "the artifact's own name is none: a model's name has 1 to 64 characters of "
                  "[A-Za-z0-9_.-]; load it under such a name");
  }
  if (other != nullptr && other->candidate == nullptr && other->serving == nullptr) {
    other->state = ModelState::kLoading;  // failed before: free
  } else if (other != nullptr && (!candidate->spec.may_replace || other->candidate != nullptr ||
                                  other->state == ModelState::kUnloading)) {
    return Status(StatusCode::kAlreadyExists,
                  "the artifact names itself '" + name +
                      "', and there is a model of that name; give it another name");
  }
  models_.erase(std::string(record->name));
  record = &models_[name];
  record->name = name;
  record->candidate = candidate;
  candidate->name = name;
  candidate->has_own_name = true;
  return Status();
}

Result<ModelRegistry::Success> ModelRegistry::load_succeeded(std::uint32_t model_id,
                                                             ModelDescription description) {
  ModelRecord* record = find_by_id(model_id);
  if (record == nullptr || record->state == ModelState::kUnloading) {
    return error(StatusCode::kNotFound, "the model was unloaded while it was being loaded");
  }
  Success success;
  if (record->candidate != nullptr && record->candidate->model_id == model_id) {
    if (!record->candidate->has_own_name) {
      if (const Status status = rename(record, description.name); !status.ok()) {
        load_failed(model_id, status, false);
        return error(status);
      }
    }
    success.is_first = true;
    success.replaced = std::exchange(record->serving, std::exchange(record->candidate, nullptr));
    if (success.replaced != nullptr && success.replaced->is_on_worker) {
      retiring_.emplace(success.replaced->model_id, success.replaced);
    } else {
      success.replaced = nullptr;
    }
  }
  description.name = record->name;
  record->serving->description = std::move(description);
  record->serving->is_on_worker = true;
  record->state = ModelState::kReady;
  record->reason = Status();
  record->admin_detail.clear();
  return success;
}

void ModelRegistry::load_failed(std::uint32_t model_id, const Status& reason, bool is_quarantined,
                                const std::string& admin_detail) {
  ModelRecord* record = find_by_id(model_id);
  if (record == nullptr) return;
  record->admin_detail = admin_detail;
  if (record->candidate != nullptr && record->candidate->model_id == model_id) {
    record->candidate = nullptr;
    if (record->serving != nullptr) {
      record->reason = reason.with_context("the last reload failed");
      return;
    }
  } else {
    record->serving = nullptr;
    if (record->candidate != nullptr) return;  // its success decides
  }
  record->state = is_quarantined ? ModelState::kQuarantined : ModelState::kFailed;
  record->reason = reason;
}

std::vector<GenerationPtr> ModelRegistry::worker_lost(std::uint32_t worker) {
  std::vector<GenerationPtr> lost;
  std::vector<std::string> gone;
  for (auto& [name, record] : models_) {
    if (record.serving == nullptr || record.serving->spec.worker != worker) continue;
    record.serving->is_on_worker = false;
    if (record.state == ModelState::kUnloading) {
      gone.push_back(name);
      continue;
    }
    record.state = ModelState::kLoading;
    lost.push_back(record.serving);
  }
  for (const std::string& name : gone) models_.erase(name);
  std::erase_if(retiring_, [&](const auto& item) { return item.second->spec.worker == worker; });
  return lost;
}

Result<GenerationPtr> ModelRegistry::begin_unload(const std::string& name) {
  const auto found = models_.find(name);
  if (found == models_.end()) return error(not_found(name));
  ModelRecord& record = found->second;
  if (record.state == ModelState::kUnloading) {
    return error(StatusCode::kFailedPrecondition, model_text(name) + " is being unloaded already");
  }
  if (record.candidate != nullptr) {
    return error(StatusCode::kFailedPrecondition,
                 model_text(name) + " is being loaded; unload it when that has ended");
  }
  if (record.serving == nullptr || !record.serving->is_on_worker) {
    models_.erase(found);
    return GenerationPtr();
  }
  record.state = ModelState::kUnloading;
  return record.serving;
}

void ModelRegistry::unloaded(std::uint32_t model_id) {
  if (retiring_.erase(model_id) != 0) return;
  const ModelRecord* record = find_by_id(model_id);
  if (record != nullptr && record->state == ModelState::kUnloading) {
    models_.erase(std::string(record->name));
  }
}

const ModelRecord* ModelRegistry::find(const std::string& name) const {
  const auto found = models_.find(name);
  return found == models_.end() ? nullptr : &found->second;
}

GenerationPtr ModelRegistry::generation(std::uint32_t model_id) const {
  if (const auto found = retiring_.find(model_id); found != retiring_.end()) return found->second;
  for (const auto& [name, record] : models_) {
    for (const GenerationPtr& generation : {record.serving, record.candidate}) {
      if (generation != nullptr && generation->model_id == model_id) return generation;
    }
  }
  return nullptr;
}

Status ModelRegistry::not_found(const std::string& name) const {
  std::string listed;
  std::size_t count = 0;
  for (const auto& [known, record] : models_) {
    if (++count > kMaxNamesListed) {
      listed += ", and " + std::to_string(models_.size() - kMaxNamesListed) + " more";
      break;
    }
    listed += (listed.empty() ? "" : ", ") + known;
  }
  return Status(StatusCode::kNotFound,
                "no model named '" + name.substr(0, 64) + "'; " +
                    (listed.empty() ? "there are none" : "there are: " + listed));
}

bool ModelRegistry::has_unnamed_candidate() const {
  return std::any_of(models_.begin(), models_.end(), [](const auto& item) {
    return item.second.candidate != nullptr && !item.second.candidate->has_own_name;
  });
}

std::chrono::milliseconds ModelRegistry::smallest_execution_limit(
    std::uint32_t worker, std::chrono::milliseconds largest) const {
  std::chrono::milliseconds smallest = largest;
  const auto look_at = [&](const GenerationPtr& generation) {
    if (generation == nullptr || generation->spec.worker != worker) return;
    smallest = std::min(smallest, generation->spec.execution_limit);
  };
  for (const auto& [name, record] : models_) {
    look_at(record.serving);
    look_at(record.candidate);
  }
  for (const auto& [model_id, generation] : retiring_) look_at(generation);
  return smallest;
}

}  // namespace bucketd::supervisor
