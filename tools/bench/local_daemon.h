// LocalDaemon: a bucketd of the bench's own, with one model, in a temporary folder. Ends with this
// object, or by the kernel with the process.
//
// Thread safety: one thread; the one that started it has to outlive it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

#include "bucketd/status.h"

namespace bucketd {

class LocalDaemon {
 public:
  // Starts the bucketd beside this program's own executable. Returns before it listens: connect
  // with a connect_timeout. Errors: when folder or process cannot be made.
  static Result<LocalDaemon> start(const std::filesystem::path& artifact, const std::string& model);

  LocalDaemon(LocalDaemon&& other) noexcept;
  LocalDaemon& operator=(LocalDaemon&&) = delete;
  ~LocalDaemon();

  std::string socket_path() const { return folder_ / "bucketd.sock"; }
  // What it logged.
  std::string log() const;

 private:
  explicit LocalDaemon(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::filesystem::path folder_;
  pid_t pid_ = -1;
};

}  // namespace bucketd
