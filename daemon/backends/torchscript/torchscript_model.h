// TorchScriptModel: BucketModel on LibTorch.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <memory>

#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/loaded_module.h"
#include "daemon/backends/torchscript/state_views.h"

namespace bucketd::torchscript {

class TorchScriptModel final : public BucketModel {
 public:
  // Loads, validates and warms up (see Backend::load).
  static Result<std::unique_ptr<BucketModel>> load(int fd, const std::string& name,
                                                   std::uint64_t limit_bytes);

  const ModelDescription& description() const override { return module_->description(); }
  Result<std::unique_ptr<PreparedInputs>> run_kernel(
      std::size_t executor, std::span<const ConstTensorView> inputs) override;
  Result<std::unique_ptr<PreparedInputs>> wrap(std::size_t executor, std::size_t bucket,
                                               std::span<const ConstTensorView> inputs) override;
  Status execute(std::size_t executor, PreparedInputs& inputs, std::span<const TensorView> states,
                 std::span<const TensorView> outputs) override;
  Status initialise_states(std::span<const TensorView> states) override;
  std::uint64_t resident_bytes() const override { return module_->resident_bytes(); }

 private:
  TorchScriptModel(std::unique_ptr<LoadedModule> module, StateViews state_views)
      : module_(std::move(module)), state_views_(std::move(state_views)) {}

  // Constant.
  const std::unique_ptr<LoadedModule> module_;
  const StateViews state_views_;
};

}  // namespace bucketd::torchscript
