// What bucketctl prints: for people (tables) and for programs (JSON, whose keys are an interface:
// added to, never renamed).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "bucketd/model_description.h"
#include "bucketd/status.h"

namespace bucketd {

struct SessionListing {
  std::vector<SessionSummary> sessions;
  bool is_complete = true;  // false: there are more than one message of the daemon holds
};

std::string status_text(const DaemonStatus& status);
std::string models_text(const std::vector<ModelSummary>& models);
std::string sessions_text(const SessionListing& listing);
std::string description_text(const ModelDescription& model);

nlohmann::json status_json(const DaemonStatus& status);
nlohmann::json models_json(const std::vector<ModelSummary>& models);
nlohmann::json sessions_json(const SessionListing& listing);
nlohmann::json description_json(const ModelDescription& model);
// {"error": {"code": "NOT_FOUND", "message": "..."}}
nlohmann::json error_json(const Status& status);

}  // namespace bucketd
