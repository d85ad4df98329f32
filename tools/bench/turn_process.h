// TurnProcess: a program of ours that makes calls in a process of its own, when it is told to: a
// baseline that must not share the bench's memory and threads, or one of several clients.
//
// Thread safety: one thread at a time, the one that started it: the program dies with that thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/fd.h"
#include "tools/bench/alternation.h"
#include "tools/bench/turn_protocol.h"

namespace bucketd {

// The folder of this program: its companions lie beside it.
std::filesystem::path program_folder();

class TurnProcess final : public Side {
 public:
  // Starts `program` of program_folder() and waits until it is ready.
  // Errors: its own, or NOT_FOUND if there is no such program.
  static Result<std::unique_ptr<TurnProcess>> start(const std::string& program,
                                                    const std::vector<std::string>& arguments);
  ~TurnProcess() override;

  Status take_turn(std::size_t warm_up, std::size_t calls,
                   std::vector<std::chrono::nanoseconds>& samples) override;
  std::chrono::nanoseconds client_cpu() const override { return client_cpu_; }
  std::chrono::nanoseconds server_cpu() const override { return server_cpu_; }

  // A turn in two halves, so that several processes can take theirs at once.
  Status begin(const TurnOrder& order);
  Status finish(std::vector<std::chrono::nanoseconds>& samples);

  pid_t pid() const { return pid_; }

 private:
  TurnProcess(pid_t pid, UniqueFd orders, UniqueFd reports)
      : pid_(pid), orders_(std::move(orders)), reports_(std::move(reports)) {}

  pid_t pid_;
  UniqueFd orders_;
  UniqueFd reports_;
  std::chrono::nanoseconds client_cpu_{0};  // as of the last report
  std::chrono::nanoseconds server_cpu_{0};
};

}  // namespace bucketd
