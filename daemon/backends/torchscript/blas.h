// Which BLAS LibTorch's matrix products run on. Debian lets the administrator choose
// (update-alternatives libblas.so.3), and the reference BLAS is more than ten times slower.
//
// Thread safety: functions without state.
#pragma once

#include <string>

namespace bucketd::torchscript {

// "OpenBLAS 0.3.21", "MKL", or "reference BLAS (slow; install libopenblas0-openmp)".
std::string blas_name();

// Bounds the threads that OpenBLAS takes for one product, where OpenBLAS is used. The bound of its
// OpenMP build is the calling thread's own (at::set_num_threads); this one is for all builds.
void bound_blas_threads(int thread_count);

}  // namespace bucketd::torchscript
