#include "daemon/backends/torchscript/storages.h"

#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

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

bool has_storage(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.is_cpu();
}

std::string_view bytes_of(const at::Storage& storage) {
  return {static_cast<const char*>(storage.data()), storage.nbytes()};
}

}  // namespace

void share_equal_storages(const std::vector<at::Tensor>& tensors,
                          const std::vector<at::Tensor>& kept_apart) {
  std::unordered_set<const void*> apart;
  for (const at::Tensor& tensor : kept_apart) {
    if (has_storage(tensor)) apart.insert(tensor.storage().unsafeGetStorageImpl());
  }
  // By content, the one that stays; by storage, the one that takes its place. Both are held until
  // the end, so that no address means two storages.
  std::unordered_map<std::string_view, at::Storage> kept;
  std::unordered_map<const void*, std::pair<at::Storage, at::Storage>> replaced;
  for (const at::Tensor& tensor : tensors) {
    if (!has_storage(tensor)) continue;
    const at::Storage storage = tensor.storage();
    const void* key = storage.unsafeGetStorageImpl();
    if (apart.contains(key) || storage.nbytes() == 0) continue;
    auto found = replaced.find(key);
    if (found == replaced.end()) {
      const at::Storage& one = kept.emplace(bytes_of(storage), storage).first->second;
      found = replaced.emplace(key, std::pair(storage, one)).first;
    }
    const at::Storage& one = found->second.second;
    at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    if (one.unsafeGetStorageImpl() != key && impl->allow_tensor_metadata_change()) {
      impl->set_storage_keep_dtype(one);
    }
  }
}

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
