// How a thread stays awake for a while before it sleeps, on either end of a channel.
//
// A wake-up costs tens of microseconds where the sleeper's virtual CPU has halted; looking oneself
// costs CPU time, and takes the CPU away from whoever is being waited for if there is no other. So
// the time is bounded, and is spent only as long as it pays:
//
//   const std::uint64_t budget_ns = budget.take();
//   StayAwake awake(budget_ns);
//   bool found = false;
//   while (!found && awake.goes_on()) found = look();
//   if (budget_ns > 0) budget.note(found && !awake.lost_cpu());
#pragma once

#include <cstdint>

namespace bucketd {

// Learns from each stay awake whether the next one is worth it. After one that was in vain the next
// is skipped, after the second in a row two, then four, up to kMostSkips; one that paid ends that.
//
// Thread safety: one thread at a time.
class SpinBudget {
 public:
  // An upper bound on what a workload that never rewards looking pays: one stay in so many sleeps.
  static constexpr std::uint32_t kMostSkips = 64;

  explicit SpinBudget(std::uint64_t limit_ns) : limit_ns_(limit_ns) {}

  std::uint64_t limit_ns() const { return limit_ns_; }

  // How long to stay awake now, in nanoseconds: `limit_ns`, or 0 for not at all.
  std::uint64_t take(std::uint64_t limit_ns);
  std::uint64_t take() { return take(limit_ns_); }

  // Whether the stay that take() granted paid.
  void note(bool paid);

 private:
  const std::uint64_t limit_ns_;
  std::uint32_t next_skips_ = 1;  // after another failure
  std::uint32_t skips_left_ = 0;
};

// One stay awake. Ends early when the thread loses its CPU: somebody else wants it, perhaps the one
// that is waited for.
//
// Thread safety: one thread.
class StayAwake {
 public:
  // Longer than this between two looks: the thread did not run meanwhile.
  static constexpr std::uint64_t kLostCpuNs = 100'000;

  // From now on, for so long. 0: goes_on() is false at once.
  explicit StayAwake(std::uint64_t duration_ns);

  // Lets the CPU's other hyperthread run for a moment. Whether to look once more.
  bool goes_on();

  bool lost_cpu() const { return lost_cpu_; }

 private:
  std::uint64_t last_look_ns_ = 0;
  std::uint64_t until_ns_ = 0;
  bool lost_cpu_ = false;
};

// The CPU that this thread runs on, plus one, as ClientPage::cpu and WorkerPage::cpu hold it; 0
// when it cannot be told. A few nanoseconds: no system call where the kernel has rseq or a vDSO.
std::uint32_t current_cpu_mark();

}  // namespace bucketd
