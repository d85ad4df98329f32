#include "daemon/worker/core_affinity.h"

#include <sched.h>

namespace bucketd {

bool bind_to_cores(std::uint32_t first_core, std::uint32_t core_count,
                   std::uint32_t threads_per_core) {
  cpu_set_t usable;
  // Fails on machines with more CPUs than the set has places for.
  if (::sched_getaffinity(0, sizeof(usable), &usable) != 0) return false;
  const std::uint64_t first = std::uint64_t{first_core} * threads_per_core;
  const std::uint64_t count = std::uint64_t{core_count} * threads_per_core;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  std::uint64_t found = 0;
  std::uint64_t place = 0;
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE && found < count; ++cpu) {
    if (!CPU_ISSET(cpu, &usable)) continue;
    if (place++ < first) continue;
    CPU_SET(cpu, &wanted);
    ++found;
  }
  return count > 0 && found == count && ::sched_setaffinity(0, sizeof(wanted), &wanted) == 0;
}

}  // namespace bucketd
