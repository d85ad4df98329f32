// StateViews: what a bucket sees of the state buffers, and how its aliased outputs get back in.
//
// The preprocessor is run at load for every bucket. Where its result is settled by the bucket alone
// (LoadedModule::preprocessor_is_static) the views' offsets, sizes and strides are kept and no
// TorchScript runs per request; else it runs every time. A result that is no view of its state is
// accepted only where nothing is written to it, since the write would be lost.
//
// Thread safety: constant after make(). Calls have to be made with c10::InferenceMode on.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/status.h"
#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/loaded_module.h"

namespace bucketd::torchscript {

class StateViews {
 public:
  // Runs the preprocessor for every bucket on copies of the initial states. `module` has to outlive
  // the result. Errors: INVALID_ARGUMENT when a result does not fit its bucket or would lose
  // writes.
  static Result<StateViews> make(const LoadedModule& module);

  // The views of `states` (full buffers, contiguous, 64-byte aligned) that `bucket` takes.
  // Errors: INTERNAL when the preprocessor fails or its result does not fit.
  Result<std::vector<at::Tensor>> slice(std::size_t bucket,
                                        std::span<const TensorView> states) const;

  // Copies the aliased ones of `outputs` (all of a bucket's) into the views, as if all were written
  // at once: an output that is itself a view of some state is copied aside first.
  // Errors: INTERNAL when a view cannot be written.
  Status write_back(std::size_t bucket, const std::vector<at::Tensor>& outputs,
                    const std::vector<at::Tensor>& views) const;

 private:
  struct Geometry {
    std::uint64_t offset_bytes = 0;
    std::vector<std::int64_t> sizes;
    std::vector<std::int64_t> strides;
  };

  explicit StateViews(const LoadedModule& module) : module_(&module) {}

  // Runs the preprocessor (or none) and checks what it gives.
  Result<std::vector<at::Tensor>> slice_by_preprocessor(
      std::size_t bucket, const std::vector<at::Tensor>& states) const;

  const LoadedModule* module_;
  // geometry_[bucket][state]; empty when the preprocessor runs every time.
  std::vector<std::vector<Geometry>> geometry_;
};

}  // namespace bucketd::torchscript
