// StateViews: what a bucket sees of the state buffers, and how its aliased outputs get back in.
//
// The preprocessor is run at load for every bucket. Where its result is settled by the bucket alone
// (PreprocessorAnalysis::is_static) the views' offsets, sizes and strides are known from then on: a
// session's views are made when a bucket first needs them, and kept. Else the preprocessor runs for
// every request. A result that is no view of its state is accepted only where nothing is written to
// it, since the write would be lost.
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
#include "daemon/backends/torchscript/session_views.h"

namespace bucketd::torchscript {

class StateViews {
 public:
  // Runs the preprocessor for every bucket on copies of the initial states. `module` has to outlive
  // the result. Errors: INVALID_ARGUMENT when a result does not fit its bucket or would lose
  // writes.
  static Result<StateViews> make(const LoadedModule& module);

  // specs()[bucket][state]: how the bucket gets it. Of what the preprocessor gave at load, where it
  // runs for every request.
  const std::vector<std::vector<StateViewSpec>>& specs() const { return specs_; }

  // The views of `session` that `bucket` takes. They are the session's, until release().
  // Errors: INTERNAL when the preprocessor fails or its result does not fit.
  Result<const std::vector<at::Tensor>*> slice(std::size_t bucket, SessionViews& session,
                                               StateTraffic& traffic) const;

  // Copies the aliased ones of `outputs` (all of a bucket's) into the views, as if all were written
  // at once: an output that is itself a view of some state is copied aside first.
  // Errors: INTERNAL when a view cannot be written.
  Status write_back(std::size_t bucket, const std::vector<at::Tensor>& outputs,
                    const std::vector<at::Tensor>& views, StateTraffic& traffic) const;

  // To be called when a request is over, however it ended.
  void release(std::size_t bucket, SessionViews& session) const;

 private:
  struct Geometry {
    std::uint64_t offset_bytes = 0;
    std::vector<std::int64_t> sizes;
    std::vector<std::int64_t> strides;
  };

  explicit StateViews(const LoadedModule& module) : module_(&module) {}

  StateViewSpec describe(const at::Tensor& view, const std::vector<at::Tensor>& states,
                         std::size_t state) const;
  // Runs the preprocessor (or none) and checks what it gives.
  Result<std::vector<at::Tensor>> slice_by_preprocessor(
      std::size_t bucket, const std::vector<at::Tensor>& states) const;

  const LoadedModule* module_;
  std::vector<std::vector<StateViewSpec>> specs_;
  // geometry_[bucket][state]; empty when the preprocessor runs for every request.
  std::vector<std::vector<Geometry>> geometry_;
};

}  // namespace bucketd::torchscript
