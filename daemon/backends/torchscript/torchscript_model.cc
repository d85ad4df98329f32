#include "daemon/backends/torchscript/torchscript_model.h"

#include <cassert>
#include <utility>
#include <vector>

#include "daemon/backends/torchscript/artifact.h"
#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/load_validation.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

class TorchScriptInputs final : public PreparedInputs {
 public:
  TorchScriptInputs(std::size_t bucket, std::vector<at::Tensor> tensors)
      : bucket_(bucket), tensors_(std::move(tensors)) {}

  std::size_t bucket() const override { return bucket_; }
  const std::vector<at::Tensor>& tensors() const { return tensors_; }

 private:
  const std::size_t bucket_;
  const std::vector<at::Tensor> tensors_;
};

ModelDescription describe(const LoadedModule& module, const StateViews& views,
                          KernelPlanSpec planning) {
  ModelDescription description = module.description();
  description.planning = std::move(planning);
  for (std::size_t b = 0; b < views.specs().size(); ++b) {
    description.buckets[b].state_views = views.specs()[b];
  }
  for (std::size_t i = 0; i < description.inputs.size(); ++i) {
    InputUseSpec& use = description.input_uses.emplace_back();
    // Integers and booleans are what operators take as indices and masks.
    if (!is_floating_point(description.inputs[i].dtype)) {
      use.reason = "its dtype is " + std::string(dtype_name(description.inputs[i].dtype));
    } else {
      use.reason = module.reason_to_copy(i);
      use.in_place = use.reason.empty();
      if (use.in_place) use.reason = "only arithmetic reads it";
    }
  }
  return description;
}

}  // namespace

TorchScriptModel::TorchScriptModel(std::unique_ptr<LoadedModule> module, StateViews state_views,
                                   std::unique_ptr<KernelPlanner> planner, KernelPlanSpec planning)
    : module_(std::move(module)),
      state_views_(std::move(state_views)),
      planner_(std::move(planner)),
      description_(describe(*module_, state_views_, std::move(planning))) {}

Result<std::unique_ptr<BucketModel>> TorchScriptModel::load(int fd, const std::string& name,
                                                            std::uint64_t limit_bytes) {
  Result<Artifact> artifact = open_artifact(fd, limit_bytes);
  if (!artifact) return error(artifact.error());
  if (!name.empty()) artifact->description.name = name;
  if (Status status = validate(artifact->description); !status.ok()) {
    return error(std::move(status));
  }
  const c10::InferenceMode inference;
  Result<std::unique_ptr<LoadedModule>> module = LoadedModule::load(fd, *artifact);
  if (!module) return error(module.error());
  if (Status status = check_unchanged(fd, *artifact); !status.ok()) {
    return error(std::move(status));
  }
  if (Status status = validate_kernel(**module); !status.ok()) return error(std::move(status));
  Result<StateViews> state_views = StateViews::make(**module);
  if (!state_views) return error(state_views.error());
  if (Status status = warm_up(**module, *state_views); !status.ok()) {
    return error(std::move(status));
  }
  std::unique_ptr<KernelPlanner> planner;
  KernelPlanSpec planning{KernelPlanning::kPlanned, {}};
  if (artifact->description.kernel == KernelKind::kTorchScript) {
    planner = std::make_unique<KernelPlanner>(**module);
    planning = planner->try_buckets();
  }
  return std::unique_ptr<BucketModel>(new TorchScriptModel(
      std::move(*module), std::move(*state_views), std::move(planner), std::move(planning)));
}

Result<std::unique_ptr<PreparedInputs>> TorchScriptModel::run_kernel(
    std::size_t /*executor*/, std::span<const ConstTensorView> inputs) {
  const c10::InferenceMode inference;
  try {
    std::vector<at::Tensor> tensors;
    tensors.reserve(inputs.size());
    for (const ConstTensorView& input : inputs) tensors.push_back(tensor_on(input));
    Result<KernelResult> result = module_->run_kernel(tensors);
    if (!result) return error(result.error());
    return std::make_unique<TorchScriptInputs>(result->bucket, std::move(result->inputs));
  } catch (...) {
    return error(status_from_libtorch("model '" + description().name + "': its kernel cannot run",
                                      StatusCode::kInternal));
  }
}

Status TorchScriptModel::plan(std::span<const TensorSignature> signature, Plan& plan) {
  if (planner_ == nullptr) return make_plan(description(), signature, plan);
  const KernelPlanSpec& planning = description().planning;
  if (planning.kind == KernelPlanning::kUnplanned) {
    return Status(StatusCode::kUnimplemented, planning.reason);
  }
  const c10::InferenceMode inference;
  return planner_->plan(signature, plan);
}

Result<std::unique_ptr<PreparedInputs>> TorchScriptModel::wrap(
    std::size_t /*executor*/, std::size_t bucket, std::span<const ConstTensorView> inputs) {
  assert(bucket < description().buckets.size() && inputs.size() == description().inputs.size());
  const c10::InferenceMode inference;
  try {
    std::vector<at::Tensor> tensors;
    tensors.reserve(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      assert(inputs[i].dtype == description().inputs[i].dtype);
      assert(inputs[i].shape == description().buckets[bucket].inputs[i]);
      at::Tensor tensor = tensor_on(inputs[i]);
      // What the caller gave is not the bucket's to write into.
      tensors.push_back(module_->writes_input(bucket, i) ? tensor.clone() : std::move(tensor));
    }
    return std::make_unique<TorchScriptInputs>(bucket, std::move(tensors));
  } catch (...) {
    return error(status_from_libtorch("model '" + description().name + "': no room for its inputs",
                                      StatusCode::kInternal));
  }
}

Result<std::unique_ptr<BoundStates>> TorchScriptModel::bind_states(
    std::span<const TensorView> states) {
  assert(states.size() == description().states.size());
  return std::make_unique<SessionViews>(states, description().buckets.size());
}

Status TorchScriptModel::execute(std::size_t /*executor*/, PreparedInputs& inputs,
                                 BoundStates* states, std::span<const TensorView> outputs,
                                 StateTraffic& traffic) {
  assert((states == nullptr) == description().states.empty());
  assert(outputs.size() == description().outputs.size());
  const c10::InferenceMode inference;
  const auto& prepared = static_cast<const TorchScriptInputs&>(inputs);
  const std::size_t bucket = prepared.bucket();
  if (states == nullptr) return run(bucket, prepared.tensors(), {}, outputs, traffic);
  auto& session = static_cast<SessionViews&>(*states);
  const auto views = state_views_.slice(bucket, session, traffic);
  if (!views) return views.error();
  const Status status = run(bucket, prepared.tensors(), **views, outputs, traffic);
  state_views_.release(bucket, session);
  return status;
}

Status TorchScriptModel::run(std::size_t bucket, const std::vector<at::Tensor>& inputs,
                             const std::vector<at::Tensor>& views,
                             std::span<const TensorView> outputs, StateTraffic& traffic) const {
  const auto results = module_->run_bucket(bucket, inputs, views);
  if (!results) return results.error();
  try {
    // Before the write-back: an output may be a view of a state that it changes.
    for (std::size_t o = 0; o < outputs.size(); ++o) copy_into(outputs[o], (*results)[o]);
  } catch (...) {
    return status_from_libtorch("model '" + description().name + "': bucket " +
                                    std::to_string(bucket) + ": its outputs cannot be copied",
                                StatusCode::kInternal);
  }
  return state_views_.write_back(bucket, *results, views, traffic);
}

Status TorchScriptModel::initialise_states(std::span<const TensorView> states) {
  assert(states.size() == description().states.size());
  for (std::size_t s = 0; s < states.size(); ++s) {
    copy_into(states[s], module_->initial_state(s));  // contiguous: a plain copy
  }
  return Status();
}

}  // namespace bucketd::torchscript
