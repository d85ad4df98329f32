// Configuration: what the daemon is told, read from one YAML file and checked before anything
// starts. Every value has its default here and nowhere else; config/bucketd.yaml documents them.
//
//   Result<Configuration> configuration = load_configuration("/etc/bucketd/bucketd.yaml");
//
// Thread safety: values.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bucketd/status.h"

namespace bucketd::supervisor {

struct SocketConfiguration {
  std::string path = "/run/bucketd/bucketd.sock";
  mode_t mode = 0660;
};

// Names are resolved to ids when the file is read.
struct AccessConfiguration {
  std::vector<uid_t> users = {};  // with `groups` empty too: whoever can open the socket
  std::vector<gid_t> groups = {};
  std::vector<uid_t> admin_users = {};  // besides root and the daemon's own user
  std::vector<gid_t> admin_groups = {};
};

struct WorkerConfiguration {
  std::uint32_t first_core = 0;
  std::uint32_t cores = 1;
  std::uint32_t threads_per_core = 1;
  std::vector<std::string> operator_libraries;
};

// Who has a state of their own: every session, or the model's users without opening any.
enum class StateScope { kSession, kModel };

struct ModelConfiguration {
  std::string name;  // empty: the artifact's own
  std::string path;
  std::uint32_t worker = 0;
  std::chrono::milliseconds execution_limit{60000};
  std::uint32_t slots = 0;  // 0: as many as limits.lane_bytes allows
  StateScope state_scope = StateScope::kSession;
  bool share_across_users = false;  // with kModel: one state for all users instead of one for each
};

struct LimitsConfiguration {
  std::uint32_t max_connections = 1024;
  std::uint32_t max_connections_per_user = 256;
  std::uint32_t max_lanes_per_connection = 64;
  // Slots of lanes.
  std::uint64_t max_shared_bytes_per_user = std::uint64_t{16} << 30;
  std::uint64_t max_request_bytes = std::uint64_t{64} << 20;
  std::uint64_t lane_bytes = std::uint64_t{64} << 20;
  std::chrono::milliseconds probe_timeout{120000};
  friend bool operator==(const LimitsConfiguration&, const LimitsConfiguration&) = default;
};

enum class WhenFull { kRefuse, kEvictLongestIdle };

struct SessionsConfiguration {
  std::uint32_t per_user = 1024;
  std::uint32_t total = 16384;
  // State and checkpoints.
  std::uint64_t bytes_per_user = std::uint64_t{16} << 30;
  std::uint64_t bytes_total = std::uint64_t{64} << 30;
  // Of a session that nobody has open.
  std::chrono::milliseconds idle_timeout{3600000};
  WhenFull when_full = WhenFull::kRefuse;
};

struct CrashConfiguration {
  std::uint32_t deaths_per_client = 3;
  std::chrono::seconds deaths_window{600};
  std::chrono::milliseconds restart_delay{50};
  std::chrono::milliseconds restart_delay_max{5000};
  friend bool operator==(const CrashConfiguration&, const CrashConfiguration&) = default;
};

enum class WakeupChoice { kAuto, kFutex, kSocket };
struct WakeupConfiguration {
  WakeupChoice policy = WakeupChoice::kAuto;
  std::uint32_t spin_us = 100;
};

enum class LogTarget { kAuto, kStderr, kJournal };
struct LoggingConfiguration {
  std::string level = "info";  // trace, debug, info, warn, error
  LogTarget target = LogTarget::kAuto;
};

struct ShutdownConfiguration {
  std::chrono::milliseconds drain_timeout{10000};
};

struct Configuration {
  SocketConfiguration socket;
  AccessConfiguration access;
  std::vector<std::string> artifact_roots;
  std::string worker_executable;  // empty: bucketd-worker beside the supervisor's own executable
  std::vector<WorkerConfiguration> workers;  // never empty after loading
  std::vector<ModelConfiguration> models;
  LimitsConfiguration limits;
  SessionsConfiguration sessions;
  CrashConfiguration crash;
  WakeupConfiguration wakeup;
  LoggingConfiguration logging;
  ShutdownConfiguration shutdown;
};

// Reads `text`, the contents of `file_name`. INVALID_ARGUMENT lists everything that is wrong, one
// line each: "bucketd.yaml:12:3: unknown key 'modles'; known here: access, artifact_roots, ...".
// Lines and columns count from 1.
Result<Configuration> parse_configuration(const std::string& text, const std::string& file_name);

// The same for a file. NOT_FOUND or PERMISSION_DENIED when it cannot be read.
Result<Configuration> load_configuration(const std::string& path);

}  // namespace bucketd::supervisor
