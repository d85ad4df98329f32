#include "daemon/backends/torchscript/artifact.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/system_error.h"
#include "daemon/backends/torchscript/artifact_metadata.h"
#include "daemon/backends/torchscript/artifact_seal.h"
#include "daemon/backends/torchscript/zip_directory.h"

namespace bucketd::torchscript {
namespace {

// Names within the one folder that LibTorch's archives have at the top.
constexpr std::string_view kMetadataName = "extra/bucketd.json";
constexpr std::string_view kVersionName = "version";
constexpr std::string_view kOtherVersionName = ".data/version";
constexpr std::uint64_t kMaxVersionBytes = 64;

// The name of the folder at the top of the archive, with its slash. LibTorch takes the first
// entry's, and leaks what it allocated until then when there is none.
Result<std::string> top_folder(const std::vector<ZipEntry>& entries) {
  if (!entries.empty()) {
    const std::size_t slash = entries.front().name.find('/');
    if (slash != std::string::npos) return entries.front().name.substr(0, slash + 1);
  }
  return error(StatusCode::kInvalidArgument, "the archive is not one of LibTorch's: no folder");
}

const ZipEntry* find_entry(const std::vector<ZipEntry>& entries, const std::string& name) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&name](const ZipEntry& entry) { return entry.name == name; });
  return found == entries.end() ? nullptr : &*found;
}

// LibTorch's own number of the archive's format.
Result<std::uint64_t> read_format_version(int fd, std::uint64_t file_bytes,
                                          const std::vector<ZipEntry>& entries,
                                          const std::string& folder) {
  const ZipEntry* entry = find_entry(entries, folder + std::string(kOtherVersionName));
  if (entry == nullptr) entry = find_entry(entries, folder + std::string(kVersionName));
  if (entry == nullptr) {
    return error(StatusCode::kInvalidArgument,
                 "the archive is not one of LibTorch's: it has no 'version'");
  }
  const Result<std::string> text = read_stored_entry(fd, file_bytes, *entry, kMaxVersionBytes);
  if (!text) return error(text.error());
  std::uint64_t version = 0;
  const char* end = text->data() + text->size();
  const auto parsed = std::from_chars(text->data(), end, version);
  if (parsed.ec != std::errc() || (parsed.ptr != end && *parsed.ptr != '\n')) {
    return error(StatusCode::kInvalidArgument,
                 "the archive is not one of LibTorch's: its 'version' is not a number");
  }
  return version;
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
  const Result<std::string> folder = top_folder(*entries);
  if (!folder) return error(folder.error());
  const ZipEntry* metadata = find_entry(*entries, *folder + std::string(kMetadataName));
  if (metadata == nullptr) {
    return error(StatusCode::kInvalidArgument,
                 "the archive has no extra/bucketd.json: it is not an artifact of bucketd");
  }
  const Result<std::string> json =
      read_stored_entry(fd, artifact.file_bytes, *metadata, kMaxMetadataBytes);
  if (!json) return error(json.error());
  const Result<std::uint64_t> version =
      read_format_version(fd, artifact.file_bytes, *entries, *folder);
  if (!version) return error(version.error());
  artifact.format_version = *version;
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
