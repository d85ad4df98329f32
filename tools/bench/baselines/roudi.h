// Roudi: iceoryx's daemon, started for the time of this object.
#pragma once

#include <sys/types.h>

#include "bucketd/status.h"

namespace bucketd {

class Roudi {
 public:
  // Returns before it serves: iceoryx's runtimes wait for it. If another RouDi runs already this
  // one ends by itself, and that is used. Errors: NOT_FOUND when iox-roudi is not installed.
  static Result<Roudi> start();
  // Stops it, and so removes its memory.
  ~Roudi();
  Roudi(Roudi&& other) noexcept;
  Roudi& operator=(Roudi&&) = delete;

 private:
  explicit Roudi(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace bucketd
