// The figures of bucketd-bench, by family; README.md one folder up says what each is.
#pragma once

#include <vector>

#include "tools/bench/figure.h"

namespace bucketd {

Figure overhead_vs_inprocess();
Figure overhead_vs_inprocess_with_state();
Figure bert_base();
Figure identity_sleeping();
Figure identity_awake();
Figure payload_flatness();

// All of them, in the order in which they are measured and shown.
std::vector<Figure> all_figures();

}  // namespace bucketd
