// BenchDaemon: a LocalDaemon with one way of waiting, and a client of it that waits the same way.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "bucketd/session.h"
#include "tools/bench/local_daemon.h"
#include "tools/bench/waiting.h"

namespace bucketd {

class BenchDaemon {
 public:
  // One worker with one core, which is usable CPU number `core`; loads nothing yet.
  static Result<BenchDaemon> start(Waiting waiting, std::size_t core,
                                   const std::filesystem::path& artifact_folder);

  // The model of that artifact, loaded if it is not yet.
  Result<Model> open(const std::string& artifact);
  // Closes no handle: they are the caller's to let go of first.
  Status unload(const std::string& artifact);

  std::string socket_path() const { return daemon_.socket_path(); }
  pid_t worker_pid() const { return worker_pid_; }
  // CPU time of supervisor and worker so far.
  std::chrono::nanoseconds cpu_time() const;

 private:
  BenchDaemon(LocalDaemon daemon, Client client, pid_t worker_pid)
      : daemon_(std::move(daemon)), client_(std::move(client)), worker_pid_(worker_pid) {}

  LocalDaemon daemon_;
  Client client_;
  pid_t worker_pid_;
  std::vector<std::string> loaded_;
};

}  // namespace bucketd
