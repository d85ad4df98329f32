// What one call costs besides the bucket's own work:
//   ninja bucketd_torchscript_bench && bin/bucketd_torchscript_bench
#include <benchmark/benchmark.h>
#include <fcntl.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/fd.h"
#include "daemon/backends/backend.h"

namespace bucketd {
namespace {

// Zeroed, aligned memory for tensors of given shapes.
class Tensors {
 public:
  template <typename Spec>
  Tensors(const std::vector<Spec>& specs, const std::vector<Shape>& shapes) {
    for (std::size_t i = 0; i < specs.size(); ++i) add(specs[i].dtype, shapes[i]);
  }
  void add(DType dtype, const Shape& shape) {
    struct alignas(64) Line {
      std::byte bytes[64];
    };
    const std::size_t lines = shape.byte_size(dtype).value() / sizeof(Line) + 1;
    const std::shared_ptr<Line[]> memory(new Line[lines]());
    views_.push_back({dtype, shape, memory[0].bytes});
    const_views_.push_back({dtype, shape, memory[0].bytes});
    memory_.push_back(memory);
  }
  std::span<const TensorView> views() const { return views_; }
  std::span<const ConstTensorView> const_views() const { return const_views_; }

 private:
  std::vector<std::shared_ptr<void>> memory_;
  std::vector<TensorView> views_;
  std::vector<ConstTensorView> const_views_;
};

Backend& backend() {
  static const std::unique_ptr<Backend> instance = [] {
    auto made = make_torchscript_backend({});
    (*made)->prepare_executor_thread(0);
    return std::move(*made);
  }();
  return *instance;
}

std::unique_ptr<BucketModel> load(const std::string& name) {
  const UniqueFd fd(::open((BUCKETD_BACKEND_ARTIFACTS "/" + name + ".pt").c_str(), O_RDONLY));
  auto model = backend().load(fd.get(), "");
  return model ? std::move(*model) : nullptr;
}

// Kernel alone, on inputs whose last dimension is `length`.
void kernel(benchmark::State& state, const std::string& name, std::int64_t length) {
  const auto model = load(name);
  if (!model) return state.SkipWithError("cannot load the artifact");
  std::vector<Shape> shapes = model->description().buckets[0].inputs;
  for (Shape& shape : shapes) shape[shape.rank() - 1] = length;
  const Tensors inputs(model->description().inputs, shapes);
  for (auto _ : state) benchmark::DoNotOptimize(model->run_kernel(0, inputs.const_views()));
}

// The plan of the same inputs instead of the kernel.
void plan(benchmark::State& state, const std::string& name, std::int64_t length) {
  const auto model = load(name);
  if (!model) return state.SkipWithError("cannot load the artifact");
  const ModelDescription& description = model->description();
  std::vector<Shape> shapes = description.buckets[0].inputs;
  std::vector<TensorSignature> signature;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    shapes[i][shapes[i].rank() - 1] = length;
    signature.push_back({description.inputs[i].dtype, shapes[i]});
  }
  const Tensors inputs(description.inputs, shapes);
  std::vector<const std::byte*> sources;
  for (const ConstTensorView& view : inputs.const_views()) sources.push_back(view.data);
  Plan plan;
  if (const Status status = model->plan(signature, plan); !status.ok()) {
    return state.SkipWithError(status.message().c_str());
  }
  const std::unique_ptr<std::byte[]> memory(new std::byte[plan.private_bytes + 64]);
  for (auto _ : state) {
    lay_out(plan, sources, memory.get());
    benchmark::ClobberMemory();
  }
}

// What making a plan takes: once for each signature of a lane.
void make(benchmark::State& state, const std::string& name, std::int64_t length) {
  const auto model = load(name);
  if (!model) return state.SkipWithError("cannot load the artifact");
  const ModelDescription& description = model->description();
  std::vector<TensorSignature> signature;
  for (std::size_t i = 0; i < description.inputs.size(); ++i) {
    Shape shape = description.buckets[0].inputs[i];
    shape[shape.rank() - 1] = length;
    signature.push_back({description.inputs[i].dtype, shape});
  }
  Plan plan;
  for (auto _ : state) benchmark::DoNotOptimize(model->plan(signature, plan));
}

// Wrap and execute, without the kernel.
void bucket(benchmark::State& state, const std::string& name, std::size_t number) {
  const auto model = load(name);
  if (!model) return state.SkipWithError("cannot load the artifact");
  const ModelDescription& description = model->description();
  const BucketSpec& spec = description.buckets[number];
  const Tensors inputs(description.inputs, spec.inputs);
  const Tensors outputs(description.outputs, spec.outputs);
  std::vector<Shape> state_shapes;
  for (const StateSpec& each : description.states) state_shapes.push_back(each.shape);
  const Tensors states(description.states, state_shapes);
  std::unique_ptr<BoundStates> bound;
  if (!description.states.empty()) bound = std::move(*model->bind_states(states.views()));
  StateTraffic traffic;
  for (auto _ : state) {
    auto prepared = model->wrap(0, number, inputs.const_views());
    const Status status = model->execute(0, **prepared, bound.get(), outputs.views(), traffic);
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
  }
}

BENCHMARK_CAPTURE(kernel, guide_122, "suite/script_kernel", 122);
BENCHMARK_CAPTURE(kernel, guide_444, "suite/script_kernel", 444);
BENCHMARK_CAPTURE(plan, guide_122, "suite/script_kernel", 122);
BENCHMARK_CAPTURE(plan, guide_444, "suite/script_kernel", 444);
BENCHMARK_CAPTURE(make, guide_122, "suite/script_kernel", 122);
BENCHMARK_CAPTURE(kernel, pad_3, "suite/identity_float32", 3);
BENCHMARK_CAPTURE(bucket, identity, "suite/identity_float32", 0);
BENCHMARK_CAPTURE(bucket, sum_of_three_512, "suite/script_kernel", 1);
BENCHMARK_CAPTURE(bucket, one_state, "suite/counter", 0);
BENCHMARK_CAPTURE(bucket, two_states_by_the_guides_preprocessor, "guide_states", 0);
BENCHMARK_CAPTURE(bucket, two_states_by_a_preprocessor_that_reads_values, "state_tells_where", 0);
BENCHMARK_CAPTURE(bucket, product_512, "product", 1);

}  // namespace
}  // namespace bucketd

BENCHMARK_MAIN();
