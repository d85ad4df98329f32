#include "tests/support/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <utility>

#include "tests/support/temporary_directory.h"

namespace bucketd::test {
namespace {

UniqueFd open_pidfd(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool poll_until(int fd, SteadyTime deadline) {
  while (true) {
    pollfd entry{fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, milliseconds_until(deadline));
    if (ready > 0) return true;
    if (ready == 0) return false;
  }
}

// The environment of this process with `changes`.
std::vector<std::string> merged_environment(const std::vector<std::string>& changes) {
  std::vector<std::string> result = changes;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::string_view name = text.substr(0, text.find('=') + 1);
    const bool replaced = std::any_of(changes.begin(), changes.end(),
                                      [&](const auto& change) { return change.starts_with(name); });
    if (!replaced) result.emplace_back(text);
  }
  return result;
}

std::vector<char*> c_strings(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::string name_of(pid_t pid) {
  std::string name = read_text("/proc/" + std::to_string(pid) + "/comm");
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return name + "[" + std::to_string(pid) + "]";
}

std::vector<pid_t> children() {
  std::vector<pid_t> result;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::istringstream list(read_text(task.path() / "children"));
    for (pid_t pid = 0; list >> pid;) result.push_back(pid);
  }
  return result;
}

}  // namespace

int milliseconds_until(SteadyTime deadline) {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (deadline <= now) return 0;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count());
}

SteadyTime patience() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

ChildProcess::ChildProcess(const std::filesystem::path& program, const ChildOptions& options) {
  std::vector<std::string> arguments = options.arguments;
  arguments.insert(arguments.begin(), program);
  std::vector<std::string> environment = merged_environment(options.environment);
  const std::vector<char*> argv = c_strings(arguments);
  const std::vector<char*> envp = c_strings(environment);
  const pid_t parent = ::getpid();
  UniqueFd output;
  if (!options.output.empty()) {
    output.reset(::open(options.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  }

  pid_ = ::fork();
  if (pid_ < 0) {
    std::perror("fork");
    std::abort();
  }
  if (pid_ == 0) {
    // Between fork and exec only async-signal-safe calls: the test may have threads.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    if (output) {
      ::dup2(output.get(), STDOUT_FILENO);
      ::dup2(output.get(), STDERR_FILENO);
    }
    ::execve(program.c_str(), argv.data(), envp.data());
    ::_exit(127);
  }
  pidfd_ = open_pidfd(pid_);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      status_(other.status_) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || status_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void ChildProcess::send(int signal) const {
  if (!status_) ::kill(pid_, signal);
}

std::optional<int> ChildProcess::wait(SteadyTime deadline) {
  if (status_) return status_;
  if (!poll_until(pidfd_.get(), deadline)) return std::nullopt;
  int status = 0;
  ::waitpid(pid_, &status, 0);
  status_ = status;
  return status_;
}

int ChildProcess::exit_code(SteadyTime deadline) {
  const std::optional<int> status = wait(deadline);
  if (!status) return -1;
  return WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
}

RunResult run_program(const std::filesystem::path& program, std::vector<std::string> arguments,
                      std::vector<std::string> environment) {
  const TemporaryDirectory directory;
  const std::filesystem::path output = directory.path() / "output";
  ChildProcess child(program, {std::move(arguments), std::move(environment), output});
  const int exit_code = child.exit_code();
  return {exit_code, read_text(output)};
}

bool wait_for_end(pid_t pid, SteadyTime deadline) {
  const UniqueFd pidfd = open_pidfd(pid);
  return !pidfd || poll_until(pidfd.get(), deadline);
}

void adopt_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }

std::vector<std::string> remaining_children(const std::set<std::string>& names,
                                            SteadyTime deadline) {
  std::vector<std::string> running;
  for (const pid_t pid : children()) {
    const std::string name = name_of(pid);
    if (!names.contains(name.substr(0, name.find('[')))) continue;
    if (wait_for_end(pid, deadline)) {
      ::waitpid(pid, nullptr, WNOHANG);
    } else {
      running.push_back(name);
    }
  }
  return running;
}

}  // namespace bucketd::test
