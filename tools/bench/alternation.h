// Alternation: measures several ways of doing a thing in turns, A B A B, so that whatever else the
// machine does meets all of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "tools/bench/figure.h"

namespace bucketd {

// One way of doing the thing. One thread at a time.
class Side {
 public:
  virtual ~Side() = default;
  // Calls `warm_up` times untimed, then `calls` times, and appends what these took.
  virtual Status take_turn(std::size_t warm_up, std::size_t calls,
                           std::vector<std::chrono::nanoseconds>& samples) = 0;
  // CPU time that caller and server have burned so far.
  virtual std::chrono::nanoseconds client_cpu() const = 0;
  virtual std::chrono::nanoseconds server_cpu() const = 0;
};

// A call in this process that says what of it counts.
class LocalSide final : public Side {
 public:
  using Call = std::function<Result<std::chrono::nanoseconds>()>;
  using CpuTime = std::function<std::chrono::nanoseconds()>;
  explicit LocalSide(Call call, CpuTime server_cpu = {})
      : call_(std::move(call)), server_cpu_(std::move(server_cpu)) {}

  Status take_turn(std::size_t warm_up, std::size_t calls,
                   std::vector<std::chrono::nanoseconds>& samples) override;
  std::chrono::nanoseconds client_cpu() const override;
  std::chrono::nanoseconds server_cpu() const override;

 private:
  Call call_;
  CpuTime server_cpu_;
};

struct Pace {
  std::chrono::duration<double> budget{1};  // for all sides together
  std::size_t calls_per_turn = 1;
  std::size_t warm_up_per_turn = 0;
  // After each turn: until what the last side kept spinning sleeps.
  std::chrono::milliseconds pause{0};
  // Rounds at least, whatever the budget.
  std::size_t min_rounds = 5;
};

struct Measured {
  std::vector<std::chrono::nanoseconds> samples;
  CpuSeconds cpu;  // of a thousand calls
  Times times() const { return times_of(samples); }
};

// One Measured for each of `sides`, which have as many samples each. The first round is a warm-up.
Result<std::vector<Measured>> alternate(std::span<Side* const> sides, const Pace& pace);

}  // namespace bucketd
