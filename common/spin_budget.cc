#include "common/spin_budget.h"

#include <sched.h>

#include <algorithm>

#include "common/monotonic_clock.h"

namespace bucketd {
namespace {

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

std::uint64_t SpinBudget::take(std::uint64_t limit_ns) {
  if (skips_left_ > 0) {
    --skips_left_;
    return 0;
  }
  return limit_ns;
}

void SpinBudget::note(bool paid) {
  if (paid) {
    next_skips_ = 1;
    return;
  }
  skips_left_ = next_skips_;
  next_skips_ = std::min(next_skips_ * 2, kMostSkips);
}

StayAwake::StayAwake(std::uint64_t duration_ns) {
  if (duration_ns == 0) return;
  last_look_ns_ = monotonic_ns();
  until_ns_ = last_look_ns_ + duration_ns;
}

bool StayAwake::goes_on() {
  if (until_ns_ == 0) return false;
  relax();
  const std::uint64_t now = monotonic_ns();
  lost_cpu_ = lost_cpu_ || now - last_look_ns_ > kLostCpuNs;
  last_look_ns_ = now;
  return !lost_cpu_ && now < until_ns_;
}

std::uint32_t current_cpu_mark() {
  const int cpu = ::sched_getcpu();
  return cpu < 0 ? 0 : static_cast<std::uint32_t>(cpu) + 1;
}

}  // namespace bucketd
