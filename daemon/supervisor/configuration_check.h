// What a configuration's values must satisfy beyond their types: against each other, and against
// the machine. Every finding is added at its position.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/yaml_reader.h"

namespace bucketd::supervisor {

// The id of a user or group given by name or by number; nothing when there is none of that name.
std::optional<uid_t> user_id_of(const std::string& name_or_id);
std::optional<gid_t> group_id_of(const std::string& name_or_id);

void check_socket(const SocketConfiguration& socket, YamlReader& root);
void check_artifact_roots(const std::vector<std::string>& roots, YamlReader& root);
void check_worker_executable(const std::string& path, YamlReader& root);
// `others`: the workers before this one, whose cores must not be used twice.
void check_worker(const WorkerConfiguration& worker, const std::vector<WorkerConfiguration>& others,
                  YamlReader& reader);
// `configuration`: everything that the file says before this model.
void check_model(const ModelConfiguration& model, const Configuration& configuration,
                 YamlReader& reader);

}  // namespace bucketd::supervisor
