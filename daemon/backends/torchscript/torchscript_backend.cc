// The TorchScript backend: LibTorch's process-wide settings, operator libraries, loading.
#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <string>

#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/blas.h"
#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/torchscript_model.h"

namespace bucketd {
namespace torchscript {
namespace {

// What loading one model may allocate by its metadata, unless the options say otherwise: half of
// the machine's memory.
std::uint64_t default_limit_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page_bytes = ::sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return std::uint64_t{1} << 32;
  return static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes) / 2;
}

// Settings that LibTorch keeps once per process; the inter-op pool can be sized only once.
void configure_libtorch() {
  static std::once_flag once;
  std::call_once(once, [] {
    at::set_num_interop_threads(1);
    // The profiling executor compiles a function anew for its second call and whenever shapes are
    // new, which for kernels is all the time. Buckets have one shape anyway. Without profiles a
    // function is compiled once, at its first call.
    torch::jit::getExecutorMode() = true;
    torch::jit::getProfilingMode() = false;
  });
}

Status load_operator_library(const std::string& path) {
  // RTLD_GLOBAL as torch.ops.load_library does it: such libraries may lean on one another. Never
  // closed: operators stay registered.
  if (::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return Status();
  const char* reason = ::dlerror();
  return Status(StatusCode::kInvalidArgument, "cannot load the operator library '" + path +
                                                  "': " + (reason != nullptr ? reason : "unknown"));
}

class TorchScriptBackend final : public Backend {
 public:
  explicit TorchScriptBackend(const BackendOptions& options)
      : threads_per_core_(static_cast<int>(std::clamp<std::uint32_t>(
            options.threads_per_core, 1, std::numeric_limits<std::int16_t>::max()))),
        limit_bytes_(options.model_bytes_limit != 0 ? options.model_bytes_limit
                                                    : default_limit_bytes()) {}

  std::string version() const override { return "torchscript " TORCH_VERSION ", " + blas_name(); }

  void prepare_executor_thread(std::size_t /*executor*/) override {
    // Of OpenMP, and through it of OpenBLAS's OpenMP build and oneDNN, for the calling thread.
    at::set_num_threads(threads_per_core_);
  }

  Result<std::unique_ptr<BucketModel>> load(int fd, const std::string& name) override {
    try {
      at::set_num_threads(threads_per_core_);
      return TorchScriptModel::load(fd, name, limit_bytes_);
    } catch (...) {
      return error(status_from_libtorch("the artifact cannot be loaded", StatusCode::kInternal));
    }
  }

 private:
  const int threads_per_core_;
  const std::uint64_t limit_bytes_;
};

}  // namespace
}  // namespace torchscript

Result<std::unique_ptr<Backend>> make_torchscript_backend(const BackendOptions& options) {
  try {
    torchscript::configure_libtorch();
    auto backend = std::make_unique<torchscript::TorchScriptBackend>(options);
    backend->prepare_executor_thread(0);
    torchscript::bound_blas_threads(static_cast<int>(options.threads_per_core));
    for (const std::string& path : options.operator_libraries) {
      if (Status status = torchscript::load_operator_library(path); !status.ok()) {
        return error(std::move(status));
      }
    }
    return std::unique_ptr<Backend>(std::move(backend));
  } catch (...) {
    return error(torchscript::status_from_libtorch("LibTorch cannot start", StatusCode::kInternal));
  }
}

}  // namespace bucketd
