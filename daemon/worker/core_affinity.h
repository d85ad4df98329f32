// Which CPUs a worker's threads may run on.
#pragma once

#include <cstdint>

namespace bucketd {

// Binds the calling thread, and the threads that it starts from now on, to the CPUs of cores
// [first_core, first_core + core_count). A core is `threads_per_core` CPUs, counted among those
// that the process may use: core 0 of a container with CPUs 4 to 7 begins at CPU 4.
//
// False, and nothing is changed, if there are not so many: cores are then only a number of
// executors, placed by the system.
bool bind_to_cores(std::uint32_t first_core, std::uint32_t core_count,
                   std::uint32_t threads_per_core);

}  // namespace bucketd
