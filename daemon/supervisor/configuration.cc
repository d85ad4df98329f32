#include "daemon/supervisor/configuration.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>

#include "common/system_error.h"
#include "daemon/link/worker_status.h"
#include "daemon/supervisor/configuration_check.h"
#include "daemon/supervisor/yaml_reader.h"

namespace bucketd::supervisor {
namespace {

constexpr std::uint64_t kDayMs = 24ull * 3600 * 1000;
constexpr std::uint64_t kTebibyte = std::uint64_t{1} << 40;

void read_socket(const YAML::Node& node, SocketConfiguration& socket, ConfigurationErrors& errors) {
  YamlReader reader(node, "socket", errors);
  reader.read_text("path", socket.path);
  std::string mode;
  reader.read_text("mode", mode);
  if (!mode.empty()) {
    const bool octal = mode.size() <= 4 && mode.find_first_not_of("01234567") == std::string::npos;
    const unsigned long value = octal ? std::stoul(mode, nullptr, 8) : 0;
    if (octal && value <= 0777) {
      socket.mode = static_cast<mode_t>(value);
    } else {
      reader.add_error("mode",
                       "must be permissions in octal, such as \"0660\", not '" + mode + "'");
    }
  }
  reader.finish();
}

void read_access(const YAML::Node& node, AccessConfiguration& access, ConfigurationErrors& errors) {
  YamlReader reader(node, "access", errors);
  const auto read_ids = [&](const std::string& key, auto resolve, auto& ids) {
    reader.for_each(key, [&](const YAML::Node& element) {
      const std::string name = element.IsScalar() ? element.Scalar() : std::string();
      if (const auto id = resolve(name)) {
        ids.push_back(*id);
      } else {
        errors.add(position_of(element), "'access." + key + "' names '" + name +
                                             "', which does not exist on this machine");
      }
    });
  };
  read_ids("users", user_id_of, access.users);
  read_ids("groups", group_id_of, access.groups);
  read_ids("admin_users", user_id_of, access.admin_users);
  read_ids("admin_groups", group_id_of, access.admin_groups);
  reader.finish();
}

void read_workers(YamlReader& root, Configuration& configuration, ConfigurationErrors& errors) {
  root.for_each("workers", [&](const YAML::Node& node) {
    WorkerConfiguration worker;
    YamlReader reader(node, "workers[" + std::to_string(configuration.workers.size()) + "]",
                      errors);
    reader.read_integer("first_core", 0, 65535, worker.first_core);
    reader.read_integer("cores", 1, kMaxExecutors, worker.cores);
    reader.read_integer("threads_per_core", 1, 256, worker.threads_per_core);
    reader.read_texts("operator_libraries", worker.operator_libraries);
    reader.finish();
    check_worker(worker, configuration.workers, reader);
    configuration.workers.push_back(std::move(worker));
  });
  if (!configuration.workers.empty()) return;
  if (root.has("workers")) root.add_error("workers", "must name at least one worker");
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  WorkerConfiguration all;
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) == 0) {
    all.cores = std::clamp<std::uint32_t>(CPU_COUNT(&cpus), 1, kMaxExecutors);
  }
  configuration.workers.push_back(all);
}

void read_models(YamlReader& root, Configuration& configuration, ConfigurationErrors& errors) {
  root.for_each("models", [&](const YAML::Node& node) {
    ModelConfiguration model;
    YamlReader reader(node, "models[" + std::to_string(configuration.models.size()) + "]", errors);
    reader.read_text("name", model.name);
    reader.read_text("path", model.path);
    reader.read_integer("worker", 0, 65535, model.worker);
    reader.read_duration("execution_limit_ms", 1, kDayMs, model.execution_limit);
    reader.read_integer("slots", 0, 1024, model.slots);
    if (const auto choice = reader.read_choice("state_scope", {"session", "model"})) {
      model.state_scope = static_cast<StateScope>(*choice);
    }
    if (const auto choice = reader.read_choice("share_across_users", {"false", "true"})) {
      model.share_across_users = *choice == 1;
    }
    reader.finish();
    check_model(model, configuration, reader);
    configuration.models.push_back(std::move(model));
  });
}

void read_limits(const YAML::Node& node, LimitsConfiguration& limits, ConfigurationErrors& errors) {
  YamlReader reader(node, "limits", errors);
  reader.read_integer("max_connections", 1, 1u << 20, limits.max_connections);
  reader.read_integer("max_connections_per_user", 1, 1u << 20, limits.max_connections_per_user);
  reader.read_integer("max_lanes_per_connection", 1, 65536, limits.max_lanes_per_connection);
  reader.read_integer("max_shared_bytes_per_user", 1u << 20, 1024 * kTebibyte,
                      limits.max_shared_bytes_per_user);
  reader.read_integer("max_request_bytes", 4096, kTebibyte / 64, limits.max_request_bytes);
  reader.read_integer("lane_bytes", 4096, kTebibyte, limits.lane_bytes);
  reader.read_duration("probe_timeout_ms", 1, kDayMs, limits.probe_timeout);
  reader.finish();
  if (limits.max_connections_per_user > limits.max_connections &&
      reader.has("max_connections_per_user")) {
    reader.add_error("max_connections_per_user",
                     "is " + std::to_string(limits.max_connections_per_user) +
                         ", above 'limits.max_connections', " +
                         std::to_string(limits.max_connections));
  }
  if (limits.lane_bytes > limits.max_shared_bytes_per_user) {
    reader.add_error(reader.has("lane_bytes") ? "lane_bytes" : "max_shared_bytes_per_user",
                     "contradicts: one lane of " + std::to_string(limits.lane_bytes) +
                         " bytes does not fit into 'limits.max_shared_bytes_per_user', " +
                         std::to_string(limits.max_shared_bytes_per_user));
  }
}

void read_sessions(const YAML::Node& node, SessionsConfiguration& sessions,
                   ConfigurationErrors& errors) {
  YamlReader reader(node, "sessions", errors);
  reader.read_integer("per_user", 0, 1u << 20, sessions.per_user);
  reader.read_integer("total", 0, 1u << 20, sessions.total);
  reader.read_integer("bytes_per_user", 0, 1024 * kTebibyte, sessions.bytes_per_user);
  reader.read_integer("bytes_total", 0, 1024 * kTebibyte, sessions.bytes_total);
  reader.read_duration("idle_timeout_ms", 1, 3650 * kDayMs, sessions.idle_timeout);
  if (const auto choice = reader.read_choice("when_full", {"refuse", "evict_longest_idle"})) {
    sessions.when_full = static_cast<WhenFull>(*choice);
  }
  reader.finish();
  const auto check = [&](const std::string& part, const std::string& whole, std::uint64_t value,
                         std::uint64_t limit) {
    if (value <= limit || !reader.has(part)) return;
    reader.add_error(part, "is " + std::to_string(value) + ", above 'sessions." + whole + "', " +
                               std::to_string(limit));
  };
  check("per_user", "total", sessions.per_user, sessions.total);
  check("bytes_per_user", "bytes_total", sessions.bytes_per_user, sessions.bytes_total);
}

void read_crash(const YAML::Node& node, CrashConfiguration& crash, ConfigurationErrors& errors) {
  YamlReader reader(node, "crash", errors);
  reader.read_integer("deaths_per_client", 1, 1u << 20, crash.deaths_per_client);
  reader.read_duration("deaths_window_s", 1, kDayMs, crash.deaths_window);
  reader.read_duration("restart_delay_ms", 0, kDayMs, crash.restart_delay);
  reader.read_duration("restart_delay_max_ms", 0, kDayMs, crash.restart_delay_max);
  reader.finish();
  if (crash.restart_delay > crash.restart_delay_max) {
    reader.add_error(reader.has("restart_delay_ms") ? "restart_delay_ms" : "restart_delay_max_ms",
                     "contradicts: 'crash.restart_delay_ms', " +
                         std::to_string(crash.restart_delay.count()) +
                         ", is above 'crash.restart_delay_max_ms', " +
                         std::to_string(crash.restart_delay_max.count()));
  }
}

void read_small_sections(YamlReader& root, Configuration& configuration,
                         ConfigurationErrors& errors) {
  {
    YamlReader reader(root.child("wakeup"), "wakeup", errors);
    if (const auto choice = reader.read_choice("policy", {"auto", "futex", "socket"})) {
      configuration.wakeup.policy = static_cast<WakeupChoice>(*choice);
    }
    reader.read_integer("spin_us", 0, 1000000, configuration.wakeup.spin_us);
    reader.finish();
  }
  {
    YamlReader reader(root.child("logging"), "logging", errors);
    const std::vector<std::string_view> levels = {"trace", "debug", "info", "warn", "error"};
    if (const auto choice = reader.read_choice("level", levels)) {
      configuration.logging.level = levels[*choice];
    }
    if (const auto choice = reader.read_choice("target", {"auto", "stderr", "journal"})) {
      configuration.logging.target = static_cast<LogTarget>(*choice);
    }
    reader.finish();
  }
  {
    YamlReader reader(root.child("shutdown"), "shutdown", errors);
    reader.read_duration("drain_timeout_ms", 0, kDayMs, configuration.shutdown.drain_timeout);
    reader.finish();
  }
}

}  // namespace

Result<Configuration> parse_configuration(const std::string& text, const std::string& file_name) {
  ConfigurationErrors errors(file_name);
  YAML::Node document;
  try {
    document = YAML::Load(text);
  } catch (const YAML::Exception& exception) {
    errors.add({std::max(exception.mark.line, 0), std::max(exception.mark.column, 0)},
               "not YAML: " + exception.msg);
    return error(errors.to_status());
  }
  Configuration configuration;
  YamlReader root(document, "", errors);
  read_socket(root.child("socket"), configuration.socket, errors);
  check_socket(configuration.socket, root);
  read_access(root.child("access"), configuration.access, errors);
  root.read_texts("artifact_roots", configuration.artifact_roots);
  check_artifact_roots(configuration.artifact_roots, root);
  root.read_text("worker_executable", configuration.worker_executable);
  check_worker_executable(configuration.worker_executable, root);
  read_workers(root, configuration, errors);
  read_models(root, configuration, errors);
  read_limits(root.child("limits"), configuration.limits, errors);
  read_sessions(root.child("sessions"), configuration.sessions, errors);
  read_crash(root.child("crash"), configuration.crash, errors);
  read_small_sections(root, configuration, errors);
  root.finish();
  if (!errors.empty()) return error(errors.to_status());
  return configuration;
}

Result<Configuration> load_configuration(const std::string& path) {
  std::ifstream file(path);
  if (!file) return error(status_from_errno("open the configuration " + path, errno));
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || !text) return error(status_from_errno("read the configuration " + path, errno));
  return parse_configuration(text.str(), path);
}

}  // namespace bucketd::supervisor
