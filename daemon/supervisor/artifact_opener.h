// ArtifactOpener: opens artifacts beneath configured folders, and nothing else.
//
// A path is resolved by the kernel beneath a root (openat2, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS),
// so that neither "..", nor a link, nor a race leaves it. What is opened must be a regular file
// that belongs to root or to the daemon's user and that not everybody may write, since a worker
// reads it while it serves, and what it holds is executed.
//
// Thread safety: const methods may be called from any thread.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"

namespace bucketd::supervisor {

// Which file with which contents, as far as the file system tells.
struct ArtifactIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  std::uint64_t size_bytes = 0;
  std::int64_t modified_ns = 0;
  friend auto operator<=>(const ArtifactIdentity&, const ArtifactIdentity&) = default;
};

struct OpenedArtifact {
  UniqueFd fd;  // read-only
  ArtifactIdentity identity;
};

class ArtifactOpener {
 public:
  // `roots`: absolute paths. They are opened anew each time: a root may be mounted later.
  explicit ArtifactOpener(std::vector<std::string> roots) : roots_(std::move(roots)) {}

  // Whether `path` is relative, or absolute beneath a root, without "..". INVALID_ARGUMENT or
  // PERMISSION_DENIED says why not. Touches no file.
  Status check_path(const std::string& path) const;

  // A relative path is looked up beneath each root in order. Errors, with the path in the text
  // (they are for administrators): NOT_FOUND; PERMISSION_DENIED when it would leave the roots, is a
  // link, is writable by others, belongs to somebody else or cannot be read; INVALID_ARGUMENT when
  // it is no regular file or is empty.
  Result<OpenedArtifact> open(const std::string& path) const;

 private:
  std::vector<std::string> roots_;
};

// The identity of what `fd` is now.
Result<ArtifactIdentity> identify_artifact(int fd);

// Whether `name` is 1 to 64 characters of [A-Za-z0-9_.-].
bool is_model_name(std::string_view name);

// The name that a model goes by until its artifact told its own: the file's, without extension and
// with '_' for characters that a name cannot have.
std::string provisional_model_name(const std::string& path);

}  // namespace bucketd::supervisor
