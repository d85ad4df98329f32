// LocalDaemon: a bucketd of the bench's own, in a temporary folder, with one worker.
//
// Thread safety: one thread at a time, the one that made it: the daemon dies with that thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "bucketd/status.h"

namespace bucketd {

class LocalDaemon {
 public:
  // Starts bucketd from the folder of this program, on all CPUs that the bench may use. `settings`:
  // as in config/bucketd.yaml; socket and, where it names none, one worker with one core are filled
  // in. Does not wait until it answers: clients do, with connect_timeout.
  static Result<LocalDaemon> start(nlohmann::json settings);
  // The same, serving one artifact under that name.
  static Result<LocalDaemon> serving(const std::filesystem::path& artifact,
                                     const std::string& model);

  // Stops it and removes the folder.
  ~LocalDaemon();
  LocalDaemon(LocalDaemon&& other) noexcept;
  LocalDaemon& operator=(LocalDaemon&&) = delete;

  pid_t pid() const { return pid_; }
  std::string socket_path() const { return folder_ / "socket"; }
  // What it logged so far.
  std::string log() const;

 private:
  explicit LocalDaemon(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::filesystem::path folder_;
  pid_t pid_ = -1;
};

}  // namespace bucketd
