#include "daemon/supervisor/worker_spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <vector>

#include "common/system_error.h"

namespace bucketd::supervisor {
namespace {

constexpr int kSocketFd = 3;
constexpr int kReportFd = 4;

// The service manager's variables are for the supervisor alone.
std::vector<char*> worker_environment() {
  constexpr std::string_view kPrivate[] = {"NOTIFY_SOCKET=",  "LISTEN_FDS=",    "LISTEN_PID=",
                                           "LISTEN_FDNAMES=", "WATCHDOG_USEC=", "WATCHDOG_PID="};
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    bool keep = true;
    for (const std::string_view prefix : kPrivate) {
      keep = keep && !std::string_view(*variable).starts_with(prefix);
    }
    if (keep) environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  return environment;
}

// In the child, between fork and exec: only async-signal-safe calls. Writes an errno to `report`
// and exits if anything fails.
[[noreturn]] void become_worker(const char* executable, char* const* arguments,
                                char* const* environment, int socket, int report, int null,
                                pid_t supervisor) {
  const auto fail = [&report]() {
    const int failure = errno;
    [[maybe_unused]] const ssize_t written = ::write(report, &failure, sizeof(failure));
    ::_exit(127);
  };
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != supervisor) ::_exit(127);  // it died before prctl
  ::setpgid(0, 0);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // Out of the way of the numbers they are to have.
  const int high_socket = ::fcntl(socket, F_DUPFD_CLOEXEC, 10);
  const int high_report = ::fcntl(report, F_DUPFD_CLOEXEC, 10);
  if (high_socket < 0 || high_report < 0 || ::dup2(null, 0) < 0 || ::dup2(2, 1) < 0 ||
      ::dup2(high_socket, kSocketFd) < 0 || ::dup3(high_report, kReportFd, O_CLOEXEC) < 0) {
    fail();
  }
  report = kReportFd;
  if (::close_range(kReportFd + 1, ~0U, 0) != 0) fail();
  ::execve(executable, arguments, environment);
  fail();
  ::_exit(127);
}

}  // namespace

Result<SpawnedProcess> spawn_worker(const std::string& executable, int socket) {
  const std::string action = "execute the worker '" + executable + "'";
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return error(status_from_errno(action, errno));
  const UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return error(status_from_errno("open /dev/null", errno));
  const std::vector<char*> environment = worker_environment();
  std::string arguments[] = {executable, "--socket-fd", std::to_string(kSocketFd)};
  char* argument_pointers[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                               nullptr};
  const pid_t supervisor = ::getpid();
  // The supervisor has one thread: the child's memory is consistent.
  const pid_t pid = ::fork();
  if (pid < 0) return error(status_from_errno(action, errno));
  if (pid == 0) {
    become_worker(executable.c_str(), argument_pointers, environment.data(), socket,
                  write_end.get(), null.get(), supervisor);
  }
  write_end.reset();
  int failure = 0;
  ssize_t received = 0;
  // Ends at exec, which closes the child's end.
  do {
    received = ::read(read_end.get(), &failure, sizeof(failure));
  } while (received < 0 && errno == EINTR);
  SpawnedProcess spawned{pid, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))};
  if (received == 0 && spawned.pidfd) return spawned;
  if (received == 0) failure = errno;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return error(status_from_errno(action, failure));
}

}  // namespace bucketd::supervisor
