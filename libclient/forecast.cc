#include "libclient/forecast.h"

#include <algorithm>

namespace bucketd::internal {
namespace {

using std::chrono::microseconds;
using Nanoseconds = Forecast::Nanoseconds;

// What is assumed before anything was seen: Linux lets a timer be 50 us late (timer slack), and a
// halted virtual CPU wakes in about as much.
constexpr microseconds kFirstOversleep{80};
// The least half of a window: clocks are read and rings are looked into.
constexpr microseconds kLeastError{5};

}  // namespace

std::optional<Forecast::Window> Forecast::window(Clock::time_point submitted,
                                                 Nanoseconds expected) {
  if (!has_answer_) return std::nullopt;
  const Nanoseconds half = std::max<Nanoseconds>(error_, kLeastError);
  if (2 * half > expected / kLargestPart) return std::nullopt;
  if (budget_.take() == 0) return std::nullopt;
  const Clock::time_point answer = submitted + expected + extra_;
  return Window{answer - half - oversleep_, answer + half};
}

void Forecast::move(Nanoseconds& estimate, Nanoseconds sample, Nanoseconds most) {
  estimate += std::clamp((sample - estimate) / 8, -most, most);
}

void Forecast::note_answer(Clock::time_point submitted, Nanoseconds expected, Nanoseconds executed,
                           Clock::time_point finished) {
  const Nanoseconds extra = finished - submitted - executed;
  if (!has_answer_) {
    has_answer_ = true;
    extra_ = extra;
    error_ = expected / (4 * kLargestPart);
    oversleep_ = kFirstOversleep;
    return;
  }
  const Nanoseconds most = expected / (8 * kLargestPart) + kLeastError;
  const Nanoseconds error = finished - submitted - expected - extra_;
  move(error_, std::max(error, -error), most);
  move(extra_, extra, most);
}

void Forecast::note_oversleep(Nanoseconds lateness) {
  move(oversleep_, std::max(lateness, Nanoseconds(0)), kFirstOversleep);
}

}  // namespace bucketd::internal
