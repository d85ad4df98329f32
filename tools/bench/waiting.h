// How client and worker wait for each other, in the daemons and clients of the bench.
#pragma once

#include <chrono>
#include <string>

#include "bucketd/client.h"

namespace bucketd {

enum class Waiting {
  kDefault,   // as configured out of the box
  kSleeping,  // a plain futex, at once
  kAwake,     // both look for kAwakeSpin before they sleep; they have a CPU each
};

// Between turns of sides that stay awake nobody calls for longer than this, so that the next side
// finds the CPUs free.
inline constexpr std::chrono::milliseconds kAwakeSpin{3};

ClientOptions client_options(Waiting waiting, const std::string& socket_path);

}  // namespace bucketd
