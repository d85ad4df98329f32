// Reads an artifact's metadata, extra/bucketd.json (README.md), into a ModelDescription.
//
// Thread safety: a function without state.
#pragma once

#include <cstdint>
#include <string_view>

#include "bucketd/model_description.h"
#include "bucketd/status.h"

namespace bucketd::torchscript {

// Most bytes of metadata; 256 buckets of 192 tensors of rank 8 need about half of it.
inline constexpr std::uint64_t kMaxMetadataBytes = std::uint64_t{16} << 20;

// Parses and validates. `limit_bytes`: what one bucket's inputs and outputs together with the
// states may have at most, so that nobody has to allocate what a typing error asks for.
// `accepted` is computed from the buckets and `dims`; `backend` is "torchscript"; `digest` is left
// empty.
// Errors: INVALID_ARGUMENT naming the place in the JSON ("buckets[1].inputs[0]: ..."), what is
// there and what should be; RESOURCE_EXHAUSTED above `limit_bytes`.
Result<ModelDescription> parse_metadata(std::string_view json, std::uint64_t limit_bytes);

}  // namespace bucketd::torchscript
