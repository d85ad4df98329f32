// KernelPlanner: plans of a bucket kernel that its author wrote in TorchScript, each tried before
// it is given.
//
// Thread safety: constant after construction; plan() may be called from several threads at once,
// with c10::InferenceMode on.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <span>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "daemon/backends/torchscript/kernel_recorder.h"
#include "daemon/backends/torchscript/loaded_module.h"
#include "daemon/plans/plan.h"

namespace bucketd::torchscript {

class KernelPlanner {
 public:
  // `module` outlives this.
  explicit KernelPlanner(const LoadedModule& module)
      : module_(module), recorder_(module.kernel(), module.self()) {}

  // The plan for inputs of `signature`. Before it is given, it lays out inputs of random bits, and
  // has to do that bit for bit as the kernel does.
  // Errors: as BucketModel::plan; DATA_LOSS when plan and kernel differ.
  Status plan(std::span<const TensorSignature> signature, Plan& plan) const;

  // Plans every bucket's exact input shapes and, where sizes may vary, those one smaller.
  KernelPlanSpec try_buckets() const;

 private:
  const LoadedModule& module_;
  const KernelRecorder recorder_;
};

}  // namespace bucketd::torchscript
