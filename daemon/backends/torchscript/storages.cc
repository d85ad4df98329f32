#include "daemon/backends/torchscript/storages.h"

#include <optional>
#include <unordered_set>

#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

// Bytes from the start of its storage to the end of a tensor; nothing on overflow.
std::optional<std::uint64_t> reach_bytes(const at::Tensor& tensor) {
  std::uint64_t last = static_cast<std::uint64_t>(tensor.storage_offset());
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) == 0) return 0;
    std::uint64_t step = 0;
    if (tensor.stride(d) < 0 ||
        __builtin_mul_overflow(static_cast<std::uint64_t>(tensor.size(d) - 1),
                               static_cast<std::uint64_t>(tensor.stride(d)), &step) ||
        __builtin_add_overflow(last, step, &last)) {
      return std::nullopt;
    }
  }
  std::uint64_t bytes = 0;
  if (__builtin_add_overflow(last, std::uint64_t{1}, &last) ||
      __builtin_mul_overflow(last, std::uint64_t{tensor.itemsize()}, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace

Result<std::uint64_t> distinct_storage_bytes(const std::vector<at::Tensor>& tensors) {
  std::unordered_set<const void*> counted;
  std::uint64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined() || tensor.layout() != at::kStrided || !tensor.is_cpu()) continue;
    const std::optional<std::uint64_t> reach = reach_bytes(tensor);
    if (!reach || *reach > tensor.storage().nbytes()) {
      return error(StatusCode::kInvalidArgument,
                   "a tensor " + signature_text(tensor) + " reaches beyond its storage");
    }
    if (counted.insert(tensor.storage().unsafeGetStorageImpl()).second) {
      bytes += tensor.storage().nbytes();
    }
  }
  return bytes;
}

}  // namespace bucketd::torchscript
