// What it costs to give a bucket its slice of a state, by the state's size: the session's kept
// views, and the same preprocessor (the guide's) run in TorchScript each time. In
// bucketd_torchscript_bench.
#include "daemon/backends/torchscript/libtorch.h"
// Comes first: LibTorch's headers want to.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/fd.h"
#include "daemon/backends/torchscript/artifact.h"
#include "daemon/backends/torchscript/state_views.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

// An artifact "sliced/KIB.pt", and memory for its only state that nobody has touched.
class Sliced {
 public:
  explicit Sliced(std::int64_t kib) {
    const std::string path = BUCKETD_BACKEND_ARTIFACTS "/sliced/" + std::to_string(kib) + ".pt";
    const UniqueFd fd(::open(path.c_str(), O_RDONLY));
    const auto artifact = open_artifact(fd.get(), std::numeric_limits<std::uint64_t>::max());
    if (!artifact) return;
    auto loaded = LoadedModule::load(fd.get(), *artifact);
    if (!loaded) return;
    module = std::move(*loaded);
    auto made = StateViews::make(*module);
    if (!made) return;
    views = std::make_unique<StateViews>(std::move(*made));
    const StateSpec& spec = module->description().states[0];
    bytes_ = *spec.shape.byte_size(spec.dtype);
    memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    state = {spec.dtype, spec.shape, static_cast<std::byte*>(memory_)};
  }
  ~Sliced() {
    if (memory_ != nullptr) ::munmap(memory_, bytes_);
  }
  Sliced(const Sliced&) = delete;
  Sliced& operator=(const Sliced&) = delete;
  bool is_ready() const { return memory_ != nullptr && memory_ != MAP_FAILED; }

  std::unique_ptr<LoadedModule> module;
  std::unique_ptr<StateViews> views;
  TensorView state;

 private:
  std::uint64_t bytes_ = 0;
  void* memory_ = nullptr;
};

void slice_by_kept_views(benchmark::State& state) {
  const c10::InferenceMode inference;
  const Sliced sliced(state.range(0));
  if (!sliced.is_ready()) return state.SkipWithError("cannot load the artifact");
  SessionViews session({&sliced.state, 1}, 2);
  StateTraffic traffic;
  for (auto _ : state) {
    benchmark::DoNotOptimize(sliced.views->slice(0, session, traffic));
    sliced.views->release(0, session);
  }
  if (traffic.bytes_copied != 0) state.SkipWithError("something was copied");
}

void slice_by_torchscript_each_time(benchmark::State& state) {
  const c10::InferenceMode inference;
  const Sliced sliced(state.range(0));
  if (!sliced.is_ready()) return state.SkipWithError("cannot load the artifact");
  const std::vector<at::Tensor> full{tensor_on(sliced.state)};
  for (auto _ : state) benchmark::DoNotOptimize(sliced.module->run_preprocessor(0, full));
}

// KiB.
BENCHMARK(slice_by_kept_views)->RangeMultiplier(32)->Range(1, 1 << 20);
BENCHMARK(slice_by_torchscript_each_time)->RangeMultiplier(32)->Range(1, 1 << 20);

}  // namespace
}  // namespace bucketd::torchscript
