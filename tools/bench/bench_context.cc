#include "tools/bench/bench_context.h"

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

constexpr std::chrono::duration<double> kQuickBudget{0.8};
constexpr std::chrono::duration<double> kFullBudget{5};

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char letter : text)
    result += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return result + "'";
}

}  // namespace

std::chrono::duration<double> BenchContext::budget(double weight) const {
  return (options_.quick ? kQuickBudget : kFullBudget) * weight;
}

std::size_t BenchContext::server_core() const { return usable_cpus().size() > 1 ? 1 : 0; }

int BenchContext::server_cpu() const { return usable_cpus()[server_core()]; }

int BenchContext::client_cpu() const { return usable_cpus()[0]; }

std::filesystem::path BenchContext::artifact(const std::string& name) const {
  return options_.artifact_folder / (name + ".pt");
}

Status BenchContext::make_artifacts(const std::vector<std::string>& names) const {
  std::string missing;
  for (const std::string& name : names) {
    if (!std::filesystem::exists(artifact(name))) missing += " " + name;
  }
  if (missing.empty()) return {};
  std::fprintf(stderr, "making artifacts, once:%s\n", missing.c_str());
  const std::string command = "PYTHONDONTWRITEBYTECODE=1 " BUCKETD_PYTHON " " +
                              quoted(BUCKETD_BENCH_ARTIFACT_MAKER) + " -o " +
                              quoted(options_.artifact_folder.string()) + missing + " >&2";
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe)
  if (status != 0) {
    return {StatusCode::kFailedPrecondition,
            "cannot make the artifacts" + missing + ": " + command};
  }
  return {};
}

Result<BenchDaemon*> BenchContext::daemon(Waiting waiting) {
  if (const auto found = daemons_.find(waiting); found != daemons_.end()) return &found->second;
  Result<BenchDaemon> started =
      BenchDaemon::start(waiting, server_core(), options_.artifact_folder);
  if (!started) return error(started.error());
  return &daemons_.emplace(waiting, std::move(*started)).first->second;
}

Result<InProcessModel*> BenchContext::in_process(const std::string& name) {
  if (const auto found = in_process_.find(name); found != in_process_.end()) {
    return found->second.get();
  }
  Result<std::unique_ptr<InProcessModel>> loaded = load_in_process(artifact(name), 1);
  if (!loaded) return error(loaded.error());
  return in_process_.emplace(name, std::move(*loaded)).first->second.get();
}

}  // namespace bucketd
