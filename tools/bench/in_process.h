// InProcessModel: the same artifact, run in this process by plain LibTorch, as a program without
// bucketd would. The only part of the bench that includes LibTorch.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "daemon/backends/backend.h"

namespace bucketd {

class InProcessModel {
 public:
  virtual ~InProcessModel() = default;

  // forward() on inputs as the caller has them: wraps them as tensors, runs bucket kernel and
  // bucket.
  // Errors: INTERNAL with what LibTorch said.
  virtual Status run(std::span<const ConstTensorView> inputs) = 0;

  // Makes tensors of these inputs and finds out what the kernel, and the preprocessor if there is
  // one, make of them: for the calls below. The memory stays the caller's.
  virtual Status use(std::span<const ConstTensorView> inputs) = 0;
  // forward() on the tensors of use(): kernel, preprocessor, bucket.
  virtual Status forward() = 0;
  // The bucket alone, on padded inputs and sliced states that exist already.
  virtual Status run_bucket() = 0;
  // The bucket kernel alone, by the TorchScript interpreter.
  virtual Status run_kernel() = 0;

  // Bytes of output `index` of the last run(), contiguous; valid until the next one.
  virtual std::span<const std::byte> output_bytes(std::size_t index) = 0;
  // Values of output `index` of the last run as float64, whole. For comparing answers.
  virtual std::vector<double> output(std::size_t index) const = 0;
};

// Loads the TorchScript file and bounds LibTorch to `threads` threads.
Result<std::unique_ptr<InProcessModel>> load_in_process(const std::string& path, int threads);

}  // namespace bucketd
