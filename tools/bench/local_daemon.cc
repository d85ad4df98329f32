#include "tools/bench/local_daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): mkdtemp is POSIX
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include "common/fd.h"
#include "common/system_error.h"
#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

// How long a daemon may drain before it is killed.
constexpr int kStopMilliseconds = 15000;

}  // namespace

Result<LocalDaemon> LocalDaemon::serving(const std::filesystem::path& artifact,
                                         const std::string& model) {
  std::error_code problem;
  const std::filesystem::path absolute = std::filesystem::canonical(artifact, problem);
  if (problem) {
    return error(StatusCode::kNotFound, "'" + artifact.string() + "': " + problem.message());
  }
  return start({{"artifact_roots", {absolute.parent_path()}},
                {"models", {{{"name", model}, {"path", absolute.filename()}}}}});
}

Result<LocalDaemon> LocalDaemon::start(nlohmann::json settings) {
  std::string pattern = std::filesystem::temp_directory_path() / "bucketd-bench-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) {
    return error(status_from_errno("make a temporary folder", errno));
  }
  LocalDaemon daemon{std::filesystem::path(pattern)};

  settings["socket"] = {{"path", daemon.socket_path()}, {"mode", "0600"}};
  if (!settings.contains("workers")) settings["workers"] = {{{"first_core", 0}, {"cores", 1}}};
  const std::string config_path = daemon.folder_ / "bucketd.yaml";
  std::ofstream(config_path) << settings.dump(2);  // JSON is YAML

  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "bucketd";
  const UniqueFd log(
      ::open((daemon.folder_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const pid_t parent = ::getpid();
  usable_cpus();
  daemon.pid_ = ::fork();
  if (daemon.pid_ < 0) return error(status_from_errno("start bucketd", errno));
  if (daemon.pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    unpin();
    ::dup2(log.get(), STDERR_FILENO);
    ::execl(program.c_str(), program.c_str(), "--config", config_path.c_str(), nullptr);
    ::_exit(127);
  }
  return daemon;
}

LocalDaemon::LocalDaemon(LocalDaemon&& other) noexcept
    : folder_(std::exchange(other.folder_, {})), pid_(std::exchange(other.pid_, -1)) {}

LocalDaemon::~LocalDaemon() {
  if (pid_ > 0) {
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    ::kill(pid_, SIGTERM);
    pollfd entry{pidfd.get(), POLLIN, 0};
    if (::poll(&entry, 1, kStopMilliseconds) <= 0) ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (!folder_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
}

std::string LocalDaemon::log() const {
  std::ostringstream text;
  text << std::ifstream(folder_ / "log").rdbuf();
  return text.str();
}

}  // namespace bucketd
