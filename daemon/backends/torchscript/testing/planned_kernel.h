// A kernel in TorchScript text, its plans, and LibTorch's interpreter to compare them with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "daemon/plans/plan.h"

namespace bucketd::torchscript::testing {

// LibTorch's settings for the process, as a worker has them.
void configure_like_the_backend();

class PlannedKernel {
 public:
  // `source` defines `kernel(inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]`. Throws when it
  // does not compile.
  explicit PlannedKernel(const std::string& source);
  ~PlannedKernel();

  // Its plan for a model whose buckets take what it gives.
  Status plan(const std::vector<TensorSignature>& signature, Plan& plan) const;

  // Whether the interpreter runs it to its end, on numbers of `round`.
  bool runs(const std::vector<TensorSignature>& signature, int round) const;

  // Compares plan and interpreter on inputs of `rounds` rounds of numbers: small ones, random bits,
  // NaNs, infinities and negative zeros among them. Says where they differ; empty if they do not.
  std::string difference(const std::vector<TensorSignature>& signature, const Plan& plan,
                         int rounds) const;

 private:
  struct Kernel;
  const std::unique_ptr<Kernel> kernel_;
};

}  // namespace bucketd::torchscript::testing
