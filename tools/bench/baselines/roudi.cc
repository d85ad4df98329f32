#include "tools/bench/baselines/roudi.h"

#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/system_error.h"

namespace bucketd {
namespace {

constexpr const char* kProgram = "/usr/bin/iox-roudi";

}  // namespace

Result<Roudi> Roudi::start() {
  if (::access(kProgram, X_OK) != 0) {
    return error(StatusCode::kNotFound, "package iceoryx is missing (iox-roudi)");
  }
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return error(status_from_errno("start iox-roudi", errno));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
    // Monitoring off: it would end processes that a busy machine keeps from answering.
    ::execl(kProgram, kProgram, "--monitoring-mode", "off", "--log-level", "off", nullptr);
    ::_exit(127);
  }
  return Roudi(pid);
}

Roudi::Roudi(Roudi&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

Roudi::~Roudi() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

}  // namespace bucketd
