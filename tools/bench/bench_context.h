// BenchContext: what the figures of one run share: effort, artifacts, daemons, models in this
// process, and which CPU is for whom.
//
// Thread safety: one thread at a time.
#pragma once

#include <any>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench/alternation.h"
#include "tools/bench/bench_daemon.h"
#include "tools/bench/in_process.h"

namespace bucketd {

struct BenchOptions {
  bool quick = false;
  std::filesystem::path artifact_folder;
};

class BenchContext {
 public:
  explicit BenchContext(BenchOptions options) : options_(std::move(options)) {}

  bool is_quick() const { return options_.quick; }
  // How long to measure one figure; `weight` for one that needs more or less than others.
  std::chrono::duration<double> budget(double weight = 1) const;

  // The worker, and servers of baselines, have the second CPU; clients the first, or the worker's.
  int server_cpu() const;
  int client_cpu() const;
  std::size_t server_core() const;

  // Makes the artifacts that are not there yet. Errors: what the maker said.
  Status make_artifacts(const std::vector<std::string>& names) const;
  std::filesystem::path artifact(const std::string& name) const;

  // The daemon that waits that way, started when first asked for and kept.
  Result<BenchDaemon*> daemon(Waiting waiting);
  // For figures that need the machine's memory, or an empty worker.
  const std::filesystem::path& artifact_folder() const { return options_.artifact_folder; }

  // The artifact in this process, one thread, loaded when first asked for and kept.
  Result<InProcessModel*> in_process(const std::string& artifact);
  void forget_in_process(const std::string& artifact) { in_process_.erase(artifact); }

  // What `make` gives, made when first asked for under that key: for figures that are two looks at
  // one measurement.
  template <typename T>
  Result<T> once(const std::string& key, const std::function<Result<T>()>& make) {
    if (const auto found = once_.find(key); found != once_.end()) {
      return std::any_cast<T>(found->second);
    }
    Result<T> made = make();
    if (made) once_[key] = *made;
    return made;
  }

 private:
  BenchOptions options_;
  std::map<Waiting, BenchDaemon> daemons_;
  std::map<std::string, std::unique_ptr<InProcessModel>> in_process_;
  std::map<std::string, std::any> once_;  // by key
};

}  // namespace bucketd
