#include "daemon/supervisor/artifact_opener.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>

#include "common/system_error.h"

namespace bucketd::supervisor {
namespace {

constexpr std::string_view kNameCharacters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

// `path` relative to `root`; nothing when an absolute path is elsewhere.
std::optional<std::string> relative_to(const std::string& root, const std::string& path) {
  if (path.front() != '/') return path;
  std::string prefix = root;
  while (prefix.size() > 1 && prefix.back() == '/') prefix.pop_back();
  if (prefix.back() != '/') prefix += '/';
  if (!path.starts_with(prefix) || path.size() == prefix.size()) return std::nullopt;
  return path.substr(prefix.size());
}

// An errno, or 0 and the descriptor.
int open_beneath(int root, const std::string& path, UniqueFd& fd) {
  open_how how{};
  // Non-blocking: opening a pipe must not hang the daemon.
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long opened = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how));
  if (opened < 0) return errno;
  fd.reset(static_cast<int>(opened));
  return 0;
}

tl::unexpected<Status> refuse(StatusCode code, const std::string& path, const std::string& why) {
  return error(code, "artifact '" + path + "' " + why);
}

}  // namespace

bool is_model_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of(kNameCharacters) == std::string_view::npos;
}

std::string provisional_model_name(const std::string& path) {
  std::string name = std::filesystem::path(path).stem().string().substr(0, 60);
  for (char& character : name) {
    if (kNameCharacters.find(character) == std::string_view::npos) character = '_';
  }
  return name.empty() ? "model" : name;
}

Result<ArtifactIdentity> identify_artifact(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return error(status_from_errno("examine an artifact", errno));
  return ArtifactIdentity{info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
                          info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

Status ArtifactOpener::check_path(const std::string& path) const {
  if (path.empty() || path.find('\0') != std::string::npos) {
    return Status(StatusCode::kInvalidArgument, "an artifact's path is empty or not a text");
  }
  const std::filesystem::path parts(path);
  if (std::find(parts.begin(), parts.end(), "..") != parts.end()) {
    return Status(StatusCode::kPermissionDenied,
                  "artifact '" + path + "' goes through '..'; a path stays beneath its root");
  }
  const bool beneath = std::any_of(roots_.begin(), roots_.end(), [&](const std::string& root) {
    return relative_to(root, path).has_value();
  });
  if (beneath) return Status();
  std::string listed;
  for (const std::string& root : roots_) listed += (listed.empty() ? "" : ", ") + root;
  return Status(StatusCode::kPermissionDenied, "artifact '" + path +
                                                   "' is not beneath the artifact roots: " +
                                                   (listed.empty() ? "there are none" : listed));
}

Result<OpenedArtifact> ArtifactOpener::open(const std::string& path) const {
  if (const Status status = check_path(path); !status.ok()) return error(status);
  OpenedArtifact artifact;
  int failure = ENOENT;
  for (const std::string& root : roots_) {
    const std::optional<std::string> relative = relative_to(root, path);
    if (!relative) continue;
    const UniqueFd folder(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    failure = folder ? open_beneath(folder.get(), *relative, artifact.fd) : errno;
    if (failure != ENOENT) break;
  }
  if (failure == ELOOP) {
    return refuse(StatusCode::kPermissionDenied, path,
                  "is, or leads through, a symbolic link; links are not followed");
  }
  if (failure == EXDEV) {
    return refuse(StatusCode::kPermissionDenied, path, "would leave its artifact root");
  }
  if (failure == ENXIO) {
    return refuse(StatusCode::kInvalidArgument, path, "is not a regular file");
  }
  if (failure != 0) return error(status_from_errno("open artifact '" + path + "'", failure));

  struct stat info {};
  if (::fstat(artifact.fd.get(), &info) != 0) {
    return error(status_from_errno("examine artifact '" + path + "'", errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return refuse(StatusCode::kInvalidArgument, path, "is not a regular file");
  }
  if ((info.st_mode & S_IWOTH) != 0) {
    return refuse(StatusCode::kPermissionDenied, path,
                  "may be written by every user; take that permission away (chmod o-w)");
  }
  // Whoever owns it may give himself permission to write.
  if (info.st_uid != 0 && info.st_uid != ::geteuid()) {
    return refuse(StatusCode::kPermissionDenied, path,
                  "belongs to uid " + std::to_string(info.st_uid) +
                      "; an artifact belongs to root or to the daemon's user (chown)");
  }
  if (info.st_size == 0) return refuse(StatusCode::kInvalidArgument, path, "is empty");
  Result<ArtifactIdentity> identity = identify_artifact(artifact.fd.get());
  if (!identity) return error(identity.error());
  artifact.identity = *identity;
  return artifact;
}

}  // namespace bucketd::supervisor
