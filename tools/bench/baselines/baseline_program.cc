#include "tools/bench/baselines/baseline_program.h"

#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "common/system_error.h"
#include "tools/bench/cpu.h"

namespace bucketd {

BaselineOptions parse_baseline_options(int argc, char** argv, const std::string& description) {
  BaselineOptions options;
  CLI::App app(description + " Started by bucketd-bench.");
  app.add_option("--mode", options.mode)->required();
  app.add_option("--artifact", options.artifact);
  app.add_option("--bytes", options.bytes);
  app.add_option("--client-cpu", options.client_cpu);
  app.add_option("--server-cpu", options.server_cpu);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    std::exit(app.exit(problem) == 0 ? 0 : 2);  // NOLINT(concurrency-mt-unsafe)
  }
  return options;
}

Result<BaselineServer> BaselineServer::start(const BaselineOptions& options,
                                             const std::function<void()>& serve) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return error(status_from_errno("start the baseline's server", errno));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::close(STDIN_FILENO);
    if (options.server_cpu >= 0) pin_to_cpu(options.server_cpu);
    serve();
    ::_exit(0);
  }
  if (options.client_cpu >= 0) pin_to_cpu(options.client_cpu);
  return BaselineServer(pid);
}

BaselineServer::BaselineServer(BaselineServer&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)) {}

BaselineServer::~BaselineServer() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

}  // namespace bucketd
