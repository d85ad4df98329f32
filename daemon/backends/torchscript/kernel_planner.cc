#include "daemon/backends/torchscript/kernel_planner.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/load_validation.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

// Any bits, but bools: NaNs, infinities and negative zeros are among them. The same each time.
std::vector<at::Tensor> random_inputs(std::span<const TensorSignature> signature) {
  std::vector<at::Tensor> inputs;
  std::mt19937_64 random(signature.size());
  for (const TensorSignature& each : signature) {
    at::Tensor tensor = at::empty(sizes_of(each.shape), scalar_type(each.dtype));
    auto* bytes = static_cast<std::byte*>(tensor.data_ptr());
    for (std::size_t at = 0; at < tensor.nbytes(); at += sizeof(std::uint64_t)) {
      std::uint64_t bits = random();
      if (each.dtype == DType::kBool) bits &= 0x0101010101010101u;
      std::memcpy(bytes + at, &bits, std::min(sizeof(bits), tensor.nbytes() - at));
    }
    inputs.push_back(std::move(tensor));
  }
  return inputs;
}

std::string signature_text(std::span<const TensorSignature> signature) {
  std::string text;
  for (const TensorSignature& each : signature) {
    text += (text.empty() ? "" : ", ") + torchscript::signature_text(each.dtype, each.shape);
  }
  return text;
}

// Whether what the kernel gave is what its bucket takes.
bool fits(const ModelDescription& model, const KernelRecording& recording) {
  if (recording.bucket >= model.buckets.size() || recording.results.size() != model.inputs.size()) {
    return false;
  }
  for (std::size_t i = 0; i < recording.results.size(); ++i) {
    if (!has_signature(recording.results[i], model.inputs[i].dtype,
                       model.buckets[recording.bucket].inputs[i])) {
      return false;
    }
  }
  return true;
}

// Whether `plan` lays `inputs` out as the kernel's own `result` has them.
bool agrees(const Plan& plan, const std::vector<at::Tensor>& inputs, const KernelResult& result) {
  if (result.bucket != plan.bucket) return false;
  std::vector<const std::byte*> sources;
  for (const at::Tensor& input : inputs) {
    sources.push_back(static_cast<const std::byte*>(input.data_ptr()));
  }
  const at::Tensor memory =
      at::full({static_cast<std::int64_t>(plan.private_bytes)}, 0xEE, at::kByte);
  auto* bytes = static_cast<std::byte*>(memory.data_ptr());
  lay_out(plan, sources, bytes);
  for (std::size_t i = 0; i < plan.inputs.size(); ++i) {
    const PlanInput& input = plan.inputs[i];
    if (input.padded_bytes != 0 &&
        std::memcmp(bytes + input.offset, result.inputs[i].data_ptr(), input.padded_bytes) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace

Status KernelPlanner::plan(std::span<const TensorSignature> signature, Plan& plan) const {
  const ModelDescription& model = module_.description();
  try {
    const std::vector<at::Tensor> inputs = random_inputs(signature);
    Result<KernelRecording> recording = recorder_.record(inputs);
    if (!recording) return recording.error();
    if (!fits(model, *recording)) {
      return Status(StatusCode::kInternal, "the kernel's result does not fit the bucket it names");
    }
    Status status =
        make_plan(model, recording->bucket, signature, std::move(recording->moves), plan);
    if (!status.ok()) return status;
    const Result<KernelResult> result = module_.run_kernel(inputs);
    if (!result || !agrees(plan, inputs, *result)) {
      return Status(StatusCode::kDataLoss, "its plan for inputs of " + signature_text(signature) +
                                               " is not what the kernel does");
    }
    return Status();
  } catch (...) {
    return status_from_libtorch("its kernel cannot be planned", StatusCode::kInternal);
  }
}

KernelPlanSpec KernelPlanner::try_buckets() const {
  const ModelDescription& model = module_.description();
  std::string reason;
  bool any_planned = false;
  for (std::size_t b = 0; b < model.buckets.size(); ++b) {
    std::vector<std::vector<Shape>> tried{model.buckets[b].inputs};
    if (auto shorter = stepped_shapes(model, b, -1)) tried.push_back(std::move(*shorter));
    for (const std::vector<Shape>& shapes : tried) {
      std::vector<TensorSignature> signature;
      for (std::size_t i = 0; i < shapes.size(); ++i) {
        signature.push_back({model.inputs[i].dtype, shapes[i]});
      }
      Plan plan;
      const Status status = this->plan(signature, plan);
      if (status.code() == StatusCode::kDataLoss) {
        return {KernelPlanning::kUnplanned, status.message()};
      }
      any_planned = any_planned || status.ok();
      // What the kernel refuses it refuses when it is run, too.
      if (status.code() == StatusCode::kUnimplemented && reason.empty()) reason = status.message();
    }
  }
  if (!any_planned) {
    return {KernelPlanning::kUnplanned,
            reason.empty() ? "it takes no input of a bucket's shapes whose numbers are random"
                           : reason};
  }
  return {reason.empty() ? KernelPlanning::kPlanned : KernelPlanning::kPartly, reason};
}

}  // namespace bucketd::torchscript
