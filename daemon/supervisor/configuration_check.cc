#include "daemon/supervisor/configuration_check.h"

#include <grp.h>
#include <pwd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "bucketd/model_description.h"
#include "daemon/supervisor/artifact_opener.h"

namespace bucketd::supervisor {
namespace {

std::optional<std::uint32_t> number_of(const std::string& text) {
  std::uint32_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

constexpr std::size_t kNameServiceBytes = 16384;

}  // namespace

std::optional<uid_t> user_id_of(const std::string& name_or_id) {
  if (const auto number = number_of(name_or_id)) return *number;
  std::vector<char> buffer(kNameServiceBytes);
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwnam_r(name_or_id.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  return entry.pw_uid;
}

std::optional<gid_t> group_id_of(const std::string& name_or_id) {
  if (const auto number = number_of(name_or_id)) return *number;
  std::vector<char> buffer(kNameServiceBytes);
  group entry{};
  group* found = nullptr;
  if (::getgrnam_r(name_or_id.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  return entry.gr_gid;
}

void check_socket(const SocketConfiguration& socket, YamlReader& root) {
  constexpr std::size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
  if (socket.path.front() != '/') {
    root.add_error("socket", "has the path '" + socket.path + "'; it must be absolute");
  } else if (socket.path.size() > kMaxPath) {
    root.add_error("socket", "has a path of " + std::to_string(socket.path.size()) +
                                 " characters; a socket's can have " + std::to_string(kMaxPath));
  }
}

void check_artifact_roots(const std::vector<std::string>& roots, YamlReader& root) {
  for (const std::string& path : roots) {
    if (path.front() != '/') {
      root.add_error("artifact_roots", "has '" + path + "'; every root must be absolute");
    }
  }
}

void check_worker_executable(const std::string& path, YamlReader& root) {
  if (path.empty()) return;
  if (path.front() != '/') {
    root.add_error("worker_executable", "must be absolute, not '" + path + "'");
  } else if (::access(path.c_str(), X_OK) != 0) {
    root.add_error("worker_executable", "names '" + path + "', which cannot be executed");
  }
}

void check_worker(const WorkerConfiguration& worker, const std::vector<WorkerConfiguration>& others,
                  YamlReader& reader) {
  for (std::size_t i = 0; i < others.size(); ++i) {
    const WorkerConfiguration& other = others[i];
    if (worker.first_core < other.first_core + other.cores &&
        other.first_core < worker.first_core + worker.cores) {
      reader.add_error("first_core", "and 'cores' take cores " + std::to_string(worker.first_core) +
                                         " to " +
                                         std::to_string(worker.first_core + worker.cores - 1) +
                                         ", some of which are workers[" + std::to_string(i) +
                                         "]'s, " + std::to_string(other.first_core) + " to " +
                                         std::to_string(other.first_core + other.cores - 1));
    }
  }
  for (const std::string& library : worker.operator_libraries) {
    if (library.front() != '/') {
      reader.add_error("operator_libraries", "has '" + library + "'; a library's path is absolute");
    } else if (::access(library.c_str(), R_OK) != 0) {
      reader.add_error("operator_libraries", "has '" + library + "', which cannot be read");
    }
  }
}

void check_model(const ModelConfiguration& model, const Configuration& configuration,
                 YamlReader& reader) {
  if (!model.name.empty()) {
    if (!is_model_name(model.name)) {
      reader.add_error("name",
                       "must be 1 to 64 characters of [A-Za-z0-9_.-], not '" + model.name + "'");
    }
    if (std::any_of(configuration.models.begin(), configuration.models.end(),
                    [&](const ModelConfiguration& other) { return other.name == model.name; })) {
      reader.add_error("name", "'" + model.name + "' is there twice");
    }
  }
  if (model.path.empty()) {
    reader.add_error("path", "is missing: a model needs the path of its artifact");
  } else if (configuration.artifact_roots.empty()) {
    reader.add_error("path", "needs a folder in 'artifact_roots' to be beneath; there is none");
  } else if (const Status status =
                 ArtifactOpener(configuration.artifact_roots).check_path(model.path);
             !status.ok()) {
    reader.add_error("path", status.message());
  }
  if (model.share_across_users && model.state_scope != StateScope::kModel) {
    reader.add_error("share_across_users",
                     "contradicts: only a model with 'state_scope: model' has one state for all "
                     "its users");
  }
  if (model.worker >= configuration.workers.size()) {
    reader.add_error("worker", "is " + std::to_string(model.worker) + "; there are workers 0 to " +
                                   std::to_string(configuration.workers.size() - 1));
  }
}

}  // namespace bucketd::supervisor
