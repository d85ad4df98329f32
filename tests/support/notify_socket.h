// NotifySocket: the service manager's end of sd_notify, for tests: they learn that the daemon is
// ready from its own word, not by sleeping.
//
// Thread safety: one thread at a time.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.h"
#include "tests/support/child_process.h"

namespace bucketd::test {

class NotifySocket {
 public:
  // Binds `path`; aborts when it cannot.
  explicit NotifySocket(std::filesystem::path path);
  ~NotifySocket();

  // For the environment of the process that is to notify.
  std::string variable() const { return "NOTIFY_SOCKET=" + path_.string(); }

  // Receives until a line "READY=1" (or another) came. False when `deadline` passed, or process
  // `pid` ended, before.
  bool wait_for(std::string_view line, pid_t pid, SteadyTime deadline);

  // Every line received so far, in order.
  const std::vector<std::string>& lines() const { return lines_; }
  void forget_lines() { lines_.clear(); }

 private:
  void receive_all();
  std::filesystem::path path_;
  UniqueFd socket_;
  std::vector<std::string> lines_;
};

}  // namespace bucketd::test
