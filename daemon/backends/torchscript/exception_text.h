// The one sentence that matters in the text of a LibTorch exception.
//
// Thread safety: a function without state.
#pragma once

#include <string>
#include <string_view>

namespace bucketd::torchscript {

// `what` of an exception without the TorchScript traceback, C++ stack, source positions and paths:
// its first line, at most 300 bytes. "The size of tensor a (3) must match ...".
std::string readable_reason(std::string_view what);

// Whether `what` says that memory ran out.
bool is_out_of_memory(std::string_view what);

}  // namespace bucketd::torchscript
