// ServedModel: the artifact that a baseline's server runs, with one float32 input, in its own
// process.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "bucketd/status.h"
#include "tools/bench/in_process.h"

namespace bucketd {

class ServedModel {
 public:
  static Result<ServedModel> load(const std::string& artifact);

  // Runs it on that memory, in place. The answer's bytes are valid until the next call.
  Result<std::span<const std::byte>> answer(std::span<const std::byte> input);

 private:
  explicit ServedModel(std::unique_ptr<InProcessModel> model) : model_(std::move(model)) {}
  std::unique_ptr<InProcessModel> model_;
};

// Tells glibc not to give large buffers back to the kernel after each call: what a server that
// receives large messages is told as well.
void keep_large_buffers();

}  // namespace bucketd
