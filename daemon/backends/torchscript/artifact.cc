#include "daemon/backends/torchscript/artifact.h"

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/system_error.h"
#include "daemon/backends/torchscript/artifact_metadata.h"
#include "daemon/backends/torchscript/artifact_seal.h"
#include "daemon/backends/torchscript/zip_directory.h"

namespace bucketd::torchscript {
namespace {

constexpr std::string_view kMetadataName = "extra/bucketd.json";

// LibTorch's archives have one folder at the top, of any name.
bool is_metadata(std::string_view entry_name) {
  const std::size_t slash = entry_name.find('/');
  return slash != entry_name.npos && entry_name.substr(slash + 1) == kMetadataName;
}

Status status_of_file(int fd, struct stat& out) {
  if (::fstat(fd, &out) != 0) return status_from_errno("look at the artifact", errno);
  if (!S_ISREG(out.st_mode)) {
    return Status(StatusCode::kInvalidArgument, "the artifact is not a regular file");
  }
  return Status();
}

}  // namespace

Result<Artifact> open_artifact(int fd, std::uint64_t limit_bytes) {
  Artifact artifact;
  if (Status status = status_of_file(fd, artifact.identity); !status.ok()) {
    return error(std::move(status));
  }
  artifact.file_bytes = static_cast<std::uint64_t>(artifact.identity.st_size);
  Result<std::string> digest = check_seal(fd, artifact.file_bytes);
  if (!digest) return error(digest.error());
  const Result<std::vector<ZipEntry>> entries = read_zip_directory(fd, artifact.file_bytes);
  if (!entries) return error(entries.error());
  const ZipEntry* metadata = nullptr;
  for (const ZipEntry& entry : *entries) {
    if (!is_metadata(entry.name)) continue;
    if (metadata != nullptr) {
      return error(StatusCode::kInvalidArgument, "the archive has metadata twice");
    }
    metadata = &entry;
  }
  if (metadata == nullptr) {
    return error(StatusCode::kInvalidArgument,
                 "the archive has no extra/bucketd.json: it is not an artifact of bucketd");
  }
  const Result<std::string> json =
      read_stored_entry(fd, artifact.file_bytes, *metadata, kMaxMetadataBytes);
  if (!json) return error(json.error());
  Result<ModelDescription> description = parse_metadata(*json, limit_bytes);
  if (!description) return error(description.error());
  artifact.description = std::move(*description);
  artifact.description.digest = std::move(*digest);
  return artifact;
}

Status check_unchanged(int fd, const Artifact& artifact) {
  struct stat now {};
  if (Status status = status_of_file(fd, now); !status.ok()) return status;
  const struct stat& then = artifact.identity;
  // The change time is not looked at: replacing the file by rename() touches it and harms nobody.
  if (now.st_size != then.st_size || now.st_mtim.tv_sec != then.st_mtim.tv_sec ||
      now.st_mtim.tv_nsec != then.st_mtim.tv_nsec) {
    return Status(StatusCode::kDataLoss, "the file was changed while it was loaded");
  }
  return Status();
}

}  // namespace bucketd::torchscript
