// Reads whole ranges of a file by descriptor, without its position.
//
// Thread safety: functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "bucketd/status.h"

namespace bucketd::torchscript {

// Fills `destination` from `offset` on.
// Errors: DATA_LOSS when the file ends before; what status_from_errno gives when reading fails.
Status read_range(int fd, std::uint64_t offset, std::span<std::byte> destination);

}  // namespace bucketd::torchscript
