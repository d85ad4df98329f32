#include "tools/bench/waiting.h"

#include <cstdint>

namespace bucketd {

ClientOptions client_options(Waiting waiting, const std::string& socket_path) {
  ClientOptions options{.socket_path = socket_path,
                        .connect_timeout = std::chrono::seconds(60),
                        .reconnect_timeout = std::chrono::minutes(5),
                        .name = "bucketd-bench"};
  switch (waiting) {
    case Waiting::kDefault:
      break;
    case Waiting::kSleeping:
      options.spin_us = 0;
      break;
    case Waiting::kAwake:
      options.spin_us = static_cast<std::uint32_t>(std::chrono::microseconds(kAwakeSpin).count());
      break;
  }
  return options;
}

}  // namespace bucketd
