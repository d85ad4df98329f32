#include "daemon/backends/torchscript/file_reading.h"

#include <unistd.h>

#include <cerrno>

#include "common/system_error.h"

namespace bucketd::torchscript {

Status read_range(int fd, std::uint64_t offset, std::span<std::byte> destination) {
  while (!destination.empty()) {
    const ssize_t count =
        ::pread(fd, destination.data(), destination.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return status_from_errno("read the artifact", errno);
    }
    if (count == 0) {
      return Status(StatusCode::kDataLoss, "the artifact became shorter while it was read");
    }
    destination = destination.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return Status();
}

}  // namespace bucketd::torchscript
