// Forecast: when the answer to a request is likely to come.
//
// A static bucket takes about as long each time. So whoever waits for it can sleep until shortly
// before, without waiting for the worker's wake-up (tens of microseconds where virtual CPUs halt),
// and look for the answer itself from then on, briefly: the hybrid polling of NVMe drivers.
//
//   answer = submission + the worker's estimate for the bucket + what else it takes (learnt here)
//   window = answer -+ the usual error, opened earlier by what timed sleeps usually oversleep
//
// There is a window only where its length without the oversleeping (in which no CPU time passes) is
// small beside the execution, so that looking costs little beside executing; and after windows in
// which no answer came, seldom (SpinBudget).
//
// Thread safety: one thread at a time (a Lane's is guarded by its channel).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "common/spin_budget.h"

namespace bucketd::internal {

class Forecast {
 public:
  using Clock = std::chrono::steady_clock;
  using Nanoseconds = std::chrono::nanoseconds;

  // The longest window is this part of the execution.
  static constexpr int kLargestPart = 10;

  // When to look. Asks the SpinBudget: note_window() has to follow a window that was used.
  struct Window {
    Clock::time_point from;
    Clock::time_point until;
  };
  std::optional<Window> window(Clock::time_point submitted, Nanoseconds expected);

  // An answer: expected to be executed for so long when it was submitted, executed for so long,
  // finished then.
  void note_answer(Clock::time_point submitted, Nanoseconds expected, Nanoseconds executed,
                   Clock::time_point finished);
  // A sleep that was to end at a window's beginning ended so much later.
  void note_oversleep(Nanoseconds lateness);
  // Whether the answer was found in the window.
  void note_window(bool found) { budget_.note(found); }

 private:
  // Towards a sample by an eighth of the distance, and by no more than `most`: a request that met a
  // busy machine says little about the next one.
  static void move(Nanoseconds& estimate, Nanoseconds sample, Nanoseconds most);

  bool has_answer_ = false;
  Nanoseconds extra_{0};      // from submission to finish, besides the execution
  Nanoseconds error_{0};      // of the forecast, usually
  Nanoseconds oversleep_{0};  // of timed sleeps, usually
  SpinBudget budget_{1};
};

}  // namespace bucketd::internal
