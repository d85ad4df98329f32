// LoadedModule: the TorchScript module of an artifact, taken apart into its buckets, kernel,
// preprocessor and initial states (README.md), each callable.
//
// Thread safety: constant after load(); every method may be called from several threads at once
// (LibTorch's interpreter keeps its state per call and locks where it compiles).
// Calls have to be made with c10::InferenceMode on. Nothing here throws.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "daemon/backends/torchscript/artifact.h"
#include "daemon/backends/torchscript/graph_analysis.h"

namespace bucketd::torchscript {

struct KernelResult {
  std::vector<at::Tensor> inputs;  // as the bucket takes them
  std::size_t bucket = 0;
};

class LoadedModule {
 public:
  // Loads what `artifact` describes from `fd` and checks that everything is there, with the right
  // number of arguments. Runs nothing but what LibTorch runs to load (__setstate__).
  // Errors: INVALID_ARGUMENT or DATA_LOSS naming the model and what is wrong.
  static Result<std::unique_ptr<LoadedModule>> load(int fd, const Artifact& artifact);

  const ModelDescription& description() const { return description_; }

  // Runs `bucket_kernel` and checks what it gives against the bucket that it names.
  // Errors: OUT_OF_RANGE when it gives an empty list, INTERNAL when its result does not fit,
  // INVALID_ARGUMENT when it raises.
  Result<KernelResult> run_kernel(const std::vector<at::Tensor>& inputs) const;

  // The method that run_kernel() runs, and what it is a method of.
  const torch::jit::Function& kernel() const { return *kernel_; }
  const c10::IValue& self() const { return self_; }

  // Runs `state_preprocessor`; has_preprocessor must hold. The results are not checked.
  Result<std::vector<at::Tensor>> run_preprocessor(std::size_t bucket,
                                                   const std::vector<at::Tensor>& states) const;

  // Runs a bucket on inputs and state views of its shapes. Gives all outputs, ordinary ones first,
  // their number, dtypes and shapes checked; aliased ones against their state's view.
  // Errors: INTERNAL when it raises or gives something else than described.
  Result<std::vector<at::Tensor>> run_bucket(std::size_t bucket,
                                             const std::vector<at::Tensor>& inputs,
                                             const std::vector<at::Tensor>& state_views) const;

  // Whether the bucket may write into that argument in place.
  bool writes_input(std::size_t bucket, std::size_t input) const {
    return buckets_[bucket].writes[input];
  }
  // Why that argument of some bucket has to be copied before it is read; empty if it need not be.
  const std::string& reason_to_copy(std::size_t input) const { return reasons_to_copy_[input]; }
  bool writes_state(std::size_t bucket, std::size_t state) const {
    return buckets_[bucket].writes[description_.inputs.size() + state];
  }

  // Of `state_preprocessor`; static if there is none.
  const PreprocessorAnalysis& preprocessor() const { return preprocessor_analysis_; }

  // Contiguous, of the described shape.
  const at::Tensor& initial_state(std::size_t state) const { return initial_states_[state]; }

  // Bytes of all distinct storages that the module holds, constants of its graphs included.
  // Storages with equal bytes that nobody writes into are one.
  std::uint64_t resident_bytes() const { return resident_bytes_; }

 private:
  struct Bucket {
    c10::IValue self;
    torch::jit::Function* forward = nullptr;
    std::vector<bool> writes;  // one for each argument: inputs, then states
  };

  explicit LoadedModule(const ModelDescription& description) : description_(description) {}

  Status take_apart(const torch::jit::Module& module);
  Status find_buckets();
  Status find_kernel();
  Status find_preprocessor();
  Status find_states();
  Status measure_storages();
  Status share_weights();
  std::string model_text() const { return "model '" + description_.name + "'"; }
  tl::unexpected<Status> unfit(const std::string& what) const;

  const ModelDescription description_;
  // Constant after load().
  torch::jit::Module module_;
  c10::IValue self_;
  std::vector<Bucket> buckets_;
  std::vector<std::string> reasons_to_copy_;  // one for each input
  torch::jit::Function* kernel_ = nullptr;
  torch::jit::Function* preprocessor_ = nullptr;
  c10::IValue shapes_collection_;
  PreprocessorAnalysis preprocessor_analysis_{
      .is_static = true, .reason = {}, .copying_operator = {}};
  std::vector<at::Tensor> initial_states_;
  std::uint64_t resident_bytes_ = 0;
};

}  // namespace bucketd::torchscript
