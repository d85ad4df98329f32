// The seal of an artifact: 84 bytes of ZIP comment at its end with the SHA-256 of everything before
// the digest (README.md). It finds damage; it says nothing about who wrote the file.
//
// Thread safety: a function without state.
#pragma once

#include <cstdint>
#include <string>

#include "bucketd/status.h"

namespace bucketd::torchscript {

// Bytes of the seal: its marker and 64 hex digits.
inline constexpr std::uint64_t kSealBytes = 84;

// Reads the whole file (`file_bytes` long) with pread and compares. Gives the digest, 64 lower-case
// hex digits.
// Errors: DATA_LOSS when there is no seal or it does not fit; what reading gives, else.
Result<std::string> check_seal(int fd, std::uint64_t file_bytes);

}  // namespace bucketd::torchscript
