// Timing one call, and writing a time down.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "bucketd/status.h"

namespace bucketd {

// How long `work`, which returns a Status, took; or its error.
template <typename Work>
Result<std::chrono::nanoseconds> timed(Work work) {
  const auto started = std::chrono::steady_clock::now();
  Status status = work();
  const auto took = std::chrono::steady_clock::now() - started;
  if (!status.ok()) return error(std::move(status));
  return took;
}

// "12.3 us".
inline std::string in_us(double us) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f us", us < 100 ? 2 : 0, us);
  return text;
}

}  // namespace bucketd
