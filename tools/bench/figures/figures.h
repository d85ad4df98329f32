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
Figure hybrid_wait_latency();
Figure hybrid_wait_cpu();
Figure payload_flatness();
Figure grpc_64b();
Figure grpc_1m();
Figure grpc_64m();
Figure iceoryx_waiting_64b();
Figure iceoryx_polling_64b();
Figure plan_vs_interpreter();
Figure weights_memory();
Figure clients8_throughput();
Figure clients8_fairness();
Figure syscalls_busy();

// All of them, in the order in which they are measured and shown.
std::vector<Figure> all_figures();

}  // namespace bucketd
