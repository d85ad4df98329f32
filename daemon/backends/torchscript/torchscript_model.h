// TorchScriptModel: BucketModel on LibTorch.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <memory>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/kernel_planner.h"
#include "daemon/backends/torchscript/loaded_module.h"
#include "daemon/backends/torchscript/state_views.h"

namespace bucketd::torchscript {

class TorchScriptModel final : public BucketModel {
 public:
  // Loads, validates and warms up (see Backend::load).
  static Result<std::unique_ptr<BucketModel>> load(int fd, const std::string& name,
                                                   std::uint64_t limit_bytes);

  const ModelDescription& description() const override { return description_; }
  Result<std::unique_ptr<PreparedInputs>> run_kernel(
      std::size_t executor, std::span<const ConstTensorView> inputs) override;
  Status plan(std::span<const TensorSignature> signature, Plan& plan) override;
  Result<std::unique_ptr<PreparedInputs>> wrap(std::size_t executor, std::size_t bucket,
                                               std::span<const ConstTensorView> inputs) override;
  Result<std::unique_ptr<BoundStates>> bind_states(std::span<const TensorView> states) override;
  Status execute(std::size_t executor, PreparedInputs& inputs, BoundStates* states,
                 std::span<const TensorView> outputs, StateTraffic& traffic) override;
  Status initialise_states(std::span<const TensorView> states) override;
  const std::byte* initial_state(std::size_t state) const override {
    return static_cast<const std::byte*>(module_->initial_state(state).data_ptr());
  }
  std::uint64_t resident_bytes() const override { return module_->resident_bytes(); }

 private:
  TorchScriptModel(std::unique_ptr<LoadedModule> module, StateViews state_views,
                   std::unique_ptr<KernelPlanner> planner, KernelPlanSpec planning);

  Status run(std::size_t bucket, const std::vector<at::Tensor>& inputs,
             const std::vector<at::Tensor>& views, std::span<const TensorView> outputs,
             StateTraffic& traffic) const;

  // Constant.
  const std::unique_ptr<LoadedModule> module_;
  const StateViews state_views_;
  const std::unique_ptr<KernelPlanner> planner_;  // null if the kernel is declarative
  const ModelDescription description_;            // the module's, with state_views and planning
};

}  // namespace bucketd::torchscript
