#include "tools/bench/figures/figures.h"

namespace bucketd {

std::vector<Figure> all_figures() {
  return {
      overhead_vs_inprocess(),
      overhead_vs_inprocess_with_state(),
      bert_base(),
      identity_sleeping(),
      identity_awake(),
      hybrid_wait_latency(),
      hybrid_wait_cpu(),
      payload_flatness(),
      grpc_64b(),
      grpc_1m(),
      grpc_64m(),
      iceoryx_waiting_64b(),
      iceoryx_polling_64b(),
      plan_vs_interpreter(),
      weights_memory(),
      clients8_throughput(),
      clients8_fairness(),
      syscalls_busy(),
  };
}

}  // namespace bucketd
