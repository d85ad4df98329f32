// KernelRecorder: runs a kernel's graph node by node on real tensors and notes what each operator
// does to them, for one input signature.
//
// Numbers, lists and control flow are what they are; of an input only sizes, strides and dtype are
// ever looked at: an operator that would take a number out of an input ends the recording. So what
// is recorded holds for every input of the signature.
//
// Thread safety: constant after construction; record() may be called from several threads at once,
// with c10::InferenceMode on.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <cstddef>
#include <memory>
#include <unordered_map>
#include <vector>

#include "bucketd/status.h"
#include "daemon/backends/torchscript/tensor_tape.h"

namespace bucketd::torchscript {

// What a kernel did.
struct KernelRecording {
  std::size_t bucket = 0;
  std::vector<at::Tensor> results;  // of the run, as the kernel gave them
  MoveList moves;                   // output i is results[i]
};

class KernelRecorder {
 public:
  // Most nodes that one run may execute.
  static constexpr std::size_t kMaxSteps = 100'000;

  // `kernel` is a method of `self`, or a function: bucket_kernel(self, inputs), kernel(inputs).
  explicit KernelRecorder(const torch::jit::Function& kernel, c10::IValue self = {});

  // Runs the kernel on `inputs`, which are contiguous; what their elements are makes no difference.
  // Whether a bucket takes what it gives is not checked.
  // Errors: UNIMPLEMENTED naming the operator that prevents a plan and why; INVALID_ARGUMENT when
  // the kernel raises, OUT_OF_RANGE when it gives an empty list, INTERNAL when it gives something
  // else than it should.
  Result<KernelRecording> record(const std::vector<at::Tensor>& inputs) const;

 private:
  friend class KernelRun;

  const std::shared_ptr<torch::jit::Graph> graph_;
  const c10::IValue self_;
  // The code of every node on the allow-list that has any: looked up once, since LibTorch looks it
  // up without a lock.
  std::unordered_map<const torch::jit::Node*, torch::jit::Operation> operations_;
};

}  // namespace bucketd::torchscript
