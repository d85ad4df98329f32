// The memory behind tensors that LibTorch read from a file.
//
// Thread safety: a function without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <cstdint>
#include <vector>

#include "bucketd/status.h"

namespace bucketd::torchscript {

// Bytes of all storages of `tensors`, each counted once however many tensors share it. Tensors that
// are not dense or not in the CPU's memory are left out.
// Errors: INVALID_ARGUMENT when a tensor's sizes and strides reach beyond its storage, which
// LibTorch's unpickler does not check.
Result<std::uint64_t> distinct_storage_bytes(const std::vector<at::Tensor>& tensors);

// Lets tensors whose storages hold the same bytes have one storage: the first one's. Whole storages
// are compared, so that views of them stay what they are. `kept_apart`: tensors whose storages are
// left alone, because somebody writes into them. Tensors that are not dense or not in the CPU's
// memory are left alone.
void share_equal_storages(const std::vector<at::Tensor>& tensors,
                          const std::vector<at::Tensor>& kept_apart);

}  // namespace bucketd::torchscript
