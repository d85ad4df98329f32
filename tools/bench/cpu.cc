#include "tools/bench/cpu.h"

#include <sched.h>
#include <time.h>  // NOLINT(modernize-deprecated-headers): clock_getcpuclockid is POSIX

namespace bucketd {
namespace {

std::chrono::nanoseconds read_clock(clockid_t clock) {
  timespec now{};
  if (::clock_gettime(clock, &now) != 0) return {};
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

const std::vector<int>& usable_cpus() {
  static const std::vector<int> cpus = [] {
    std::vector<int> found;
    cpu_set_t set;
    if (::sched_getaffinity(0, sizeof(set), &set) == 0) {
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) found.push_back(cpu);
      }
    }
    if (found.empty()) found.push_back(0);
    return found;
  }();
  return cpus;
}

void pin_to_cpu(int cpu) {
  usable_cpus();
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

void unpin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : usable_cpus()) CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

std::chrono::nanoseconds cpu_time_of(pid_t process) {
  clockid_t clock = 0;
  if (::clock_getcpuclockid(process, &clock) != 0) return {};
  return read_clock(clock);
}

std::chrono::nanoseconds own_cpu_time() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

}  // namespace bucketd
