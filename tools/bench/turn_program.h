// The far side of a TurnProcess: takes turns as it is told, until its standard input ends.
#pragma once

#include <chrono>
#include <functional>

#include "bucketd/status.h"

namespace bucketd {

struct TurnCaller {
  // Makes one call and says what of it counts.
  std::function<Result<std::chrono::nanoseconds>()> call;
  // CPU time of the server so far; may be empty.
  std::function<std::chrono::nanoseconds()> server_cpu;
  // Around each turn, and between its warm-up and its timed calls; may be empty.
  std::function<void()> begin_turn;
  std::function<void()> begin_timed;
  std::function<void()> end_turn;
};

// Serves turns with what `make` gives; its error is reported to the bench. The exit code.
int serve_turns(const std::function<Result<TurnCaller>()>& make);

}  // namespace bucketd
