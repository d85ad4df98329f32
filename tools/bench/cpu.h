// CPUs: which there are, pinning to one, and how much time processes have burned on them.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <vector>

namespace bucketd {

// CPUs that this process may use, ascending; as of the first call, before anything was pinned.
const std::vector<int>& usable_cpus();

// Binds the calling thread, and what it starts from now on, to one CPU.
void pin_to_cpu(int cpu);
// Undoes it. Async-signal-safe after the first call of usable_cpus().
void unpin();

// CPU time of a whole process so far, user and system; zero if it is gone.
std::chrono::nanoseconds cpu_time_of(pid_t process);
std::chrono::nanoseconds own_cpu_time();

}  // namespace bucketd
