#include "daemon/backends/torchscript/testing/planned_kernel.h"

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <gtest/gtest.h>
#include <torch/jit.h>

#include <cstring>
#include <limits>
#include <optional>
#include <random>

#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/kernel_recorder.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript::testing {
namespace {

// Inputs of `signature`, for every `round` others.
std::vector<at::Tensor> numbers_of(const std::vector<TensorSignature>& signature, int round) {
  std::mt19937_64 random(static_cast<std::uint64_t>(round) * 7919 + signature.size());
  std::vector<at::Tensor> inputs;
  for (const TensorSignature& each : signature) {
    at::Tensor tensor = at::empty(sizes_of(each.shape), scalar_type(each.dtype));
    auto* bytes = static_cast<std::byte*>(tensor.data_ptr());
    const std::size_t element = dtype_size_bytes(each.dtype);
    for (std::size_t at = 0; at < tensor.nbytes(); at += element) {
      std::uint64_t bits = random();
      // Small numbers in one round of two, and what is not quite a number among the others.
      const std::uint64_t choice = bits % 8;
      if (each.dtype == DType::kBool) {
        bits = bits >> 8 & 1;
      } else if (round % 2 == 0 || choice < 3) {
        const at::Tensor small = at::full({1}, static_cast<std::int64_t>(bits >> 8) % 3, at::kLong)
                                     .to(tensor.scalar_type());
        std::memcpy(&bits, small.data_ptr(), element);
      } else if (is_floating_point(each.dtype) && choice < 6) {
        const double value = choice == 3   ? std::numeric_limits<double>::quiet_NaN()
                             : choice == 4 ? -std::numeric_limits<double>::infinity()
                                           : -0.0;
        const at::Tensor special = at::full({1}, value, tensor.scalar_type());
        std::memcpy(&bits, special.data_ptr(), element);
      }
      std::memcpy(bytes + at, &bits, element);
    }
    inputs.push_back(std::move(tensor));
  }
  return inputs;
}

}  // namespace

struct PlannedKernel::Kernel {
  explicit Kernel(const std::string& source)
      : unit(torch::jit::compile(source)),
        function(unit->find_function("kernel")),
        recorder(*function) {}

  // Nothing when the kernel raises.
  std::optional<std::vector<at::Tensor>> interpret(const std::vector<at::Tensor>& inputs) const;

  const std::shared_ptr<torch::jit::CompilationUnit> unit;
  torch::jit::Function* const function;
  const KernelRecorder recorder;
};

void configure_like_the_backend() {
  static const auto backend = make_torchscript_backend({});
  ASSERT_TRUE(backend.has_value());
}

PlannedKernel::PlannedKernel(const std::string& source)
    : kernel_(std::make_unique<Kernel>(source)) {}

PlannedKernel::~PlannedKernel() = default;

bool PlannedKernel::runs(const std::vector<TensorSignature>& signature, int round) const {
  return kernel_->interpret(numbers_of(signature, round)).has_value();
}

Status PlannedKernel::plan(const std::vector<TensorSignature>& signature, Plan& plan) const {
  const c10::InferenceMode inference;
  Result<KernelRecording> recording = kernel_->recorder.record(numbers_of(signature, 0));
  if (!recording) return recording.error();
  ModelDescription model;
  model.name = "generated";
  model.buckets.resize(recording->bucket + 1);
  for (std::size_t i = 0; i < recording->results.size(); ++i) {
    const at::Tensor& result = recording->results[i];
    model.inputs.push_back({"x" + std::to_string(i), *dtype_of(result.scalar_type())});
    const std::optional<Shape> shape =
        Shape::from({result.sizes().data(), static_cast<std::size_t>(result.dim())});
    if (!shape) return Status(StatusCode::kOutOfRange, "a bucket has not so many dimensions");
    for (BucketSpec& bucket : model.buckets) bucket.inputs.push_back(*shape);
  }
  return make_plan(model, recording->bucket, signature, std::move(recording->moves), plan);
}

std::optional<std::vector<at::Tensor>> PlannedKernel::Kernel::interpret(
    const std::vector<at::Tensor>& inputs) const {
  const c10::InferenceMode inference;
  c10::List<at::Tensor> list;
  for (const at::Tensor& input : inputs) list.push_back(input.clone());
  try {
    torch::jit::Stack stack{std::move(list)};
    function->run(stack);
    std::vector<at::Tensor> results;
    for (const at::Tensor& result : stack.back().toTupleRef().elements()[0].toTensorVector()) {
      results.push_back(result.contiguous());
    }
    return results;
  } catch (...) {
    return std::nullopt;
  }
}

std::string PlannedKernel::difference(const std::vector<TensorSignature>& signature,
                                      const Plan& plan, int rounds) const {
  for (int round = 1; round <= rounds; ++round) {
    const std::vector<at::Tensor> inputs = numbers_of(signature, round);
    const auto expected = kernel_->interpret(inputs);
    if (!expected) return "the kernel raises";
    if (expected->size() != plan.inputs.size()) return "the kernel gives another number of tensors";
    std::vector<const std::byte*> sources;
    for (const at::Tensor& input : inputs) {
      sources.push_back(static_cast<const std::byte*>(input.data_ptr()));
    }
    const at::Tensor memory =
        at::full({static_cast<std::int64_t>(plan.private_bytes) + 1}, 0xEE, at::kByte);
    auto* bytes = static_cast<std::byte*>(memory.data_ptr());
    lay_out(plan, sources, bytes);
    for (std::size_t i = 0; i < expected->size(); ++i) {
      const PlanInput& input = plan.inputs[i];
      if (!has_signature((*expected)[i], input.dtype, input.padded)) {
        return "output " + std::to_string(i) + " has another signature";
      }
      const auto* given = static_cast<const std::byte*>((*expected)[i].data_ptr());
      for (std::uint64_t at = 0; at < input.padded_bytes; ++at) {
        if (bytes[input.offset + at] != given[at]) {
          return "round " + std::to_string(round) + ", output " + std::to_string(i) + ", byte " +
                 std::to_string(at);
        }
      }
    }
  }
  return "";
}

}  // namespace bucketd::torchscript::testing
