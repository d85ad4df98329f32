// Where LibTorch's exceptions end.
//
//   try {
//     ...
//   } catch (...) {
//     return error(status_from_libtorch("model 'bert': bucket 1 failed", StatusCode::kInternal));
//   }
//
// Thread safety: a function without state.
#pragma once

#include <string>

#include "bucketd/status.h"

namespace bucketd::torchscript {

// To be called inside a catch block: the exception being handled as "`what_failed`: reason" with
// `code`, or with RESOURCE_EXHAUSTED when memory ran out.
Status status_from_libtorch(const std::string& what_failed, StatusCode code);

}  // namespace bucketd::torchscript
