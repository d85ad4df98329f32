// Plots: latency over the payload's size, and over the number of clients.
#pragma once

#include <filesystem>

#include "bucketd/status.h"
#include "tools/bench/bench_context.h"

namespace bucketd {

// Measures both and writes to `folder`, which is made: NAME.dat (a column for each line),
// NAME.gnuplot (draws it), NAME.svg. Without gnuplot the last is left out, and standard error says
// so.
Status write_plots(BenchContext& context, const std::filesystem::path& folder);

}  // namespace bucketd
