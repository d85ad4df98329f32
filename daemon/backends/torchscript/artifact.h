// Opens an artifact as far as that goes without LibTorch: seal, ZIP directory, metadata.
//
// Thread safety: a function without state.
#pragma once

#include <sys/stat.h>

#include <cstdint>

#include "bucketd/model_description.h"
#include "bucketd/status.h"

namespace bucketd::torchscript {

struct Artifact {
  ModelDescription description;  // with `digest`
  std::uint64_t file_bytes = 0;
  std::uint64_t format_version = 0;  // of LibTorch's archives; LibTorch knows which it reads
  struct stat identity {};           // as it was before the seal was checked
};

// Reads the artifact behind `fd` with pread. Nothing is allocated that the file's own length or
// `limit_bytes` (see parse_metadata) do not justify.
// Errors: DATA_LOSS when the file is damaged; INVALID_ARGUMENT when it is no artifact or its
// metadata is wrong; RESOURCE_EXHAUSTED above a limit.
Result<Artifact> open_artifact(int fd, std::uint64_t limit_bytes);

// DATA_LOSS when the file was changed since open_artifact() looked at it: what was loaded is then
// not what the seal covers.
Status check_unchanged(int fd, const Artifact& artifact);

}  // namespace bucketd::torchscript
