// ChildProcess: a program that a test runs beside itself.
//
// It never outlives the test: it is killed when this object ends, and by the kernel when the thread
// that started it dies (PR_SET_PDEATHSIG counts threads, so start it from one that stays).
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/fd.h"

namespace bucketd::test {

using SteadyTime = std::chrono::steady_clock::time_point;

// A deadline that only a broken program misses, also under sanitizers on a busy machine.
SteadyTime patience();

// For poll(); 0 when `deadline` has passed. (SteadyTime::min() minus anything would overflow.)
int milliseconds_until(SteadyTime deadline);

struct ChildOptions {
  std::vector<std::string> arguments = {};    // without the program's name
  std::vector<std::string> environment = {};  // "NAME=value", replacing what the test itself has
  std::filesystem::path output = {};  // file for standard output and error; empty: the test's
};

class ChildProcess {
 public:
  // Aborts when fork fails; a program that cannot be executed exits with 127.
  ChildProcess(const std::filesystem::path& program, const ChildOptions& options);
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;

  pid_t pid() const { return pid_; }
  void send(int signal) const;

  // Waits for its end. Nothing if it still runs at `deadline`; else its status as for waitpid().
  std::optional<int> wait(SteadyTime deadline = patience());
  // The same as an exit code; 128 + signal if a signal ended it; -1 if it still runs.
  int exit_code(SteadyTime deadline = patience());

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  std::optional<int> status_;
};

// Runs a program to its end. `output` is what it wrote to standard output and error.
struct RunResult {
  int exit_code = -1;
  std::string output;
};
RunResult run_program(const std::filesystem::path& program, std::vector<std::string> arguments,
                      std::vector<std::string> environment = {});

// Waits until process `pid` (child or not) has ended. False if it still runs at `deadline`.
bool wait_for_end(pid_t pid, SteadyTime deadline = patience());

// Makes orphans of this process's descendants its children, so that none can hide.
void adopt_orphans();
// Waits for, and reaps, children called one of `names` (as in /proc/PID/comm) that belong to no
// ChildProcess; gives names and pids of those that still run at `deadline`.
std::vector<std::string> remaining_children(const std::set<std::string>& names,
                                            SteadyTime deadline = patience());

}  // namespace bucketd::test
