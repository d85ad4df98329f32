#include "tools/bench/turn_process.h"

#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "common/system_error.h"
#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;

bool read_all(int fd, void* to, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ssize_t got = ::read(fd, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace

std::filesystem::path program_folder() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path();
}

Result<std::unique_ptr<TurnProcess>> TurnProcess::start(const std::string& program,
                                                        const std::vector<std::string>& arguments) {
  const std::string path = program_folder() / program;
  if (::access(path.c_str(), X_OK) != 0) {
    return error(StatusCode::kNotFound, "the program '" + program + "' was not built");
  }
  int orders[2];
  int reports[2];
  if (::pipe2(orders, O_CLOEXEC) != 0) return error(status_from_errno("make a pipe", errno));
  UniqueFd orders_read(orders[0]);
  UniqueFd orders_write(orders[1]);
  if (::pipe2(reports, O_CLOEXEC) != 0) return error(status_from_errno("make a pipe", errno));
  UniqueFd reports_read(reports[0]);
  UniqueFd reports_write(reports[1]);
  std::vector<char*> argument_pointers = {const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) {
    argument_pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  argument_pointers.push_back(nullptr);
  usable_cpus();
  const pid_t parent = ::getpid();
  // vfork-like costs do not matter here; only async-signal-safe calls follow in the child.
  const pid_t pid = ::fork();
  if (pid < 0) return error(status_from_errno("start " + program, errno));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    unpin();
    ::dup2(orders_read.get(), STDIN_FILENO);
    ::dup2(reports_write.get(), STDOUT_FILENO);
    ::execv(path.c_str(), argument_pointers.data());
    ::_exit(127);
  }
  orders_read.reset();
  reports_write.reset();
  std::unique_ptr<TurnProcess> process(
      new TurnProcess(pid, std::move(orders_write), std::move(reports_read)));
  std::vector<nanoseconds> none;
  if (Status status = process->finish(none); !status.ok()) {
    return error(status.with_context(program));
  }
  return process;
}

TurnProcess::~TurnProcess() {
  // It ends, and stops its server, when its orders end; nothing it does takes longer than a turn.
  orders_.reset();
  ::waitpid(pid_, nullptr, 0);
}

Status TurnProcess::take_turn(std::size_t warm_up, std::size_t calls,
                              std::vector<nanoseconds>& samples) {
  if (Status status = begin({warm_up, calls, 0}); !status.ok()) return status;
  return finish(samples);
}

Status TurnProcess::begin(const TurnOrder& order) {
  if (::write(orders_.get(), &order, sizeof(order)) != sizeof(order)) {
    return status_from_errno("order a turn", errno);
  }
  return {};
}

Status TurnProcess::finish(std::vector<nanoseconds>& samples) {
  TurnReport report;
  if (!read_all(reports_.get(), &report, sizeof(report))) {
    return {StatusCode::kInternal, "the measuring process ended"};
  }
  std::vector<std::int64_t> times(report.samples);
  std::string problem(report.text_bytes, '\0');
  if (!read_all(reports_.get(), times.data(), times.size() * sizeof(std::int64_t)) ||
      !read_all(reports_.get(), problem.data(), problem.size())) {
    return {StatusCode::kInternal, "the measuring process ended within a report"};
  }
  client_cpu_ = nanoseconds(report.client_cpu_ns);
  server_cpu_ = nanoseconds(report.server_cpu_ns);
  for (const std::int64_t time : times) samples.emplace_back(time);
  if (!problem.empty()) return {StatusCode::kInternal, problem};
  return {};
}

}  // namespace bucketd
