// What the programs of this folder have in common: options, and a server in a process of its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "bucketd/status.h"

namespace bucketd {

struct BaselineOptions {
  std::string mode;          // which of the program's ways
  std::string artifact;      // what the server runs; empty: it echoes
  std::uint64_t bytes = 64;  // of a request
  int client_cpu = -1;       // -1: not pinned
  int server_cpu = -1;
};

// Parses the command line; exits with 2 on wrong usage.
BaselineOptions parse_baseline_options(int argc, char** argv, const std::string& description);

// A child of this process that runs `serve` on the server's CPU, and then exits. To be started
// before anything makes a thread. Killed at the end of this object, and with its parent.
class BaselineServer {
 public:
  static Result<BaselineServer> start(const BaselineOptions& options,
                                      const std::function<void()>& serve);
  ~BaselineServer();
  BaselineServer(BaselineServer&& other) noexcept;
  BaselineServer& operator=(BaselineServer&&) = delete;

  pid_t pid() const { return pid_; }

 private:
  explicit BaselineServer(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace bucketd
