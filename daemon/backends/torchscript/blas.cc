#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <dlfcn.h>
#include <stdlib.h>

#include <memory>
#include <string_view>

#include "daemon/backends/torchscript/blas.h"

namespace bucketd::torchscript {
namespace {

// The file that defines LibTorch's matrix product, links resolved; empty if unknown.
std::string library_of_gemm() {
  void* gemm = ::dlsym(RTLD_DEFAULT, "sgemm_");
  Dl_info info{};
  if (gemm == nullptr || ::dladdr(gemm, &info) == 0 || info.dli_fname == nullptr) return {};
  const std::unique_ptr<char, decltype(&::free)> path(::realpath(info.dli_fname, nullptr), &::free);
  return path ? path.get() : info.dli_fname;
}

template <typename Function>
Function* symbol(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
}

}  // namespace

std::string blas_name() {
  if (at::hasMKL()) return "MKL";
  const std::string library = library_of_gemm();
  if (library.find("openblas") != library.npos) {
    std::string name = "OpenBLAS";
    if (const auto get_config = symbol<char*()>("openblas_get_config")) {
      // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...".
      const std::string_view config = get_config();
      name = config.substr(0, config.find(' ', config.find(' ') + 1));
    }
    return name;
  }
  if (library.empty()) return "BLAS built in";
  return "reference BLAS (slow; install libopenblas0-openmp)";
}

void bound_blas_threads(int thread_count) {
  if (const auto set = symbol<void(int)>("openblas_set_num_threads")) set(thread_count);
}

}  // namespace bucketd::torchscript
