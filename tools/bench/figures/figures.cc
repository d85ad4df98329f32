#include "tools/bench/figures/figures.h"

namespace bucketd {

std::vector<Figure> all_figures() {
  return {overhead_vs_inprocess(),
          overhead_vs_inprocess_with_state(),
          bert_base(),
          identity_sleeping(),
          identity_awake(),
          payload_flatness()};
}

}  // namespace bucketd
