// bucketd: the daemon's entry point.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/logging.h"
#include "daemon/supervisor/service_notification.h"
#include "daemon/supervisor/supervisor.h"
#include "daemon/supervisor/version.h"

namespace {

using namespace bucketd;              // NOLINT(google-build-using-namespace): this file only
using namespace bucketd::supervisor;  // NOLINT(google-build-using-namespace)

constexpr int kExitFailure = 1;
constexpr int kExitConfiguration = 2;

int fail(const Status& status, int exit_code) {
  std::cerr << "bucketd: " << status.message() << '\n';
  return exit_code;
}

int run(Configuration configuration) {
  start_logging(configuration.logging);
  Result<UniqueFd> activation = take_activation_socket();
  if (!activation) return fail(activation.error(), kExitFailure);
  std::string worker = configuration.worker_executable;
  if (worker.empty()) {
    std::error_code failure;
    worker =
        (std::filesystem::read_symlink("/proc/self/exe", failure).parent_path() / "bucketd-worker")
            .string();
  }
  Supervisor supervisor(std::move(configuration), std::move(worker));
  const Status status = supervisor.run(std::move(*activation));
  return status.ok() ? 0 : fail(status, kExitFailure);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("bucketd: serves bucketed models to local processes through shared memory");
  std::string path = "/etc/bucketd/bucketd.yaml";
  bool check = false;
  app.add_option("--config", path, "Configuration file (YAML)")->capture_default_str();
  app.add_option("--check-config", path, "Check this configuration file and exit")
      ->each([&](const std::string&) { check = true; });
  app.set_version_flag("--version", std::string("bucketd ") + kVersion);
  CLI11_PARSE(app, argc, argv);
  Result<Configuration> configuration = load_configuration(path);
  if (!configuration) return fail(configuration.error(), kExitConfiguration);
  if (check) {
    std::cout << path << ": good\n";
    return 0;
  }
  return run(std::move(*configuration));
}
