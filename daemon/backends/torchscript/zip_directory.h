// ZipDirectory: the central directory of an artifact's ZIP archive, checked before LibTorch sees
// it.
//
// LibTorch's reader allocates what the directory says before it reads; here every size is held
// against the file first, so that a few bytes cannot ask for gigabytes. Encrypted, split and
// unknown-method entries are refused, and so are two entries of one name.
//
// Thread safety: functions without state.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bucketd/status.h"

namespace bucketd::torchscript {

struct ZipEntry {
  std::string name;
  bool is_stored = false;              // kept as it is; else deflated
  std::uint64_t compressed_bytes = 0;  // in the file
  std::uint64_t size_bytes = 0;        // equal to compressed_bytes when stored
  std::uint64_t header_offset = 0;     // of the local header, from the file's start
};

// Most entries of an archive.
inline constexpr std::size_t kMaxZipEntries = 1 << 20;
// Most bytes that all deflated entries (LibTorch's source code and debug records) may expand to.
inline constexpr std::uint64_t kMaxInflatedBytes = std::uint64_t{1} << 30;

// Reads the directory of the archive in `fd`, `file_bytes` long.
// Errors: DATA_LOSS when the file is no ZIP archive or its records contradict each other or the
// file's length; RESOURCE_EXHAUSTED beyond the limits above.
Result<std::vector<ZipEntry>> read_zip_directory(int fd, std::uint64_t file_bytes);

// The content of a stored entry. `limit_bytes`: the most that it may have.
// Errors: INVALID_ARGUMENT when it is deflated; RESOURCE_EXHAUSTED above the limit; DATA_LOSS when
// its local header does not fit the directory.
Result<std::string> read_stored_entry(int fd, std::uint64_t file_bytes, const ZipEntry& entry,
                                      std::uint64_t limit_bytes);

}  // namespace bucketd::torchscript
