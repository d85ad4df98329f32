#include "libclient/forecast.h"

#include <gtest/gtest.h>

#include <chrono>

namespace bucketd::internal {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Clock = Forecast::Clock;

constexpr milliseconds kExecution{4};
const Clock::time_point kSubmitted{std::chrono::hours(1)};

// A forecast that has seen answers which took `extra` besides the execution.
Forecast taught(int answers, microseconds extra, microseconds spread = microseconds(0)) {
  Forecast forecast;
  for (int i = 0; i < answers; ++i) {
    const auto off = i % 2 == 0 ? spread : -spread;
    forecast.note_answer(kSubmitted, kExecution, kExecution + off,
                         kSubmitted + kExecution + extra + off);
  }
  return forecast;
}

TEST(Forecast, says_nothing_before_the_first_answer) {
  Forecast forecast;
  EXPECT_FALSE(forecast.window(kSubmitted, kExecution));
}

TEST(Forecast, opens_a_window_around_the_answer_and_earlier_by_what_sleeps_oversleep) {
  Forecast forecast = taught(50, microseconds(30));
  for (int i = 0; i < 50; ++i) forecast.note_oversleep(microseconds(100));
  const auto window = forecast.window(kSubmitted, kExecution);
  ASSERT_TRUE(window);
  const Clock::time_point answer = kSubmitted + kExecution + microseconds(30);
  EXPECT_LE(window->from, answer - microseconds(90));
  EXPECT_GE(window->from, answer - microseconds(130));
  EXPECT_GE(window->until, answer);
  EXPECT_LE(window->until, answer + microseconds(50));
}

TEST(Forecast, has_no_window_for_executions_that_are_short_beside_a_wake_up) {
  Forecast forecast = taught(50, microseconds(30));
  EXPECT_FALSE(forecast.window(kSubmitted, microseconds(60)));
}

TEST(Forecast, has_no_window_where_answers_come_at_very_different_times) {
  Forecast forecast = taught(200, microseconds(500), microseconds(400));
  EXPECT_FALSE(forecast.window(kSubmitted, kExecution));
}

TEST(Forecast, one_outlier_leaves_it_as_it_is) {
  Forecast forecast = taught(50, microseconds(30));
  const auto before = forecast.window(kSubmitted, kExecution);
  forecast.note_answer(kSubmitted, kExecution, kExecution + milliseconds(100),
                       kSubmitted + kExecution + milliseconds(100));
  const auto after = forecast.window(kSubmitted, kExecution);
  ASSERT_TRUE(before && after);
  EXPECT_LT(after->until - before->until, microseconds(200));
}

TEST(Forecast, windows_in_vain_become_rare) {
  Forecast forecast = taught(50, microseconds(30));
  int windows = 0;
  for (int i = 0; i < 1000; ++i) {
    if (!forecast.window(kSubmitted, kExecution)) continue;
    ++windows;
    forecast.note_window(false);
  }
  EXPECT_GT(windows, 5);
  EXPECT_LT(windows, 30);
}

}  // namespace
}  // namespace bucketd::internal
