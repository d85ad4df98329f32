#include "common/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "common/system_error.h"

namespace bucketd {
namespace {

// What mapped_region asks of anything it can map.
class Mappable {
 public:
  explicit Mappable(int fd) : fd_(fd) {}
  boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(fd_);
  }

 private:
  int fd_;
};

}  // namespace

Result<UniqueFd> create_memfd(const std::string& label, std::uint64_t byte_size) {
  UniqueFd fd(::memfd_create(label.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return error(status_from_errno("create shared memory", errno));
  if (::ftruncate(fd.get(), static_cast<off_t>(byte_size)) != 0) {
    return error(
        status_from_errno("size shared memory of " + std::to_string(byte_size) + " bytes", errno));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0) {
    return error(status_from_errno("seal shared memory", errno));
  }
  return fd;
}

Status seal_future_writes(int fd) {
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return status_from_errno("seal shared memory against writing", errno);
  }
  return Status();
}

Status check_sealed(int fd, std::uint64_t byte_size) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return status_from_errno("read the seals of shared memory", errno);
  if ((seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_GROW) == 0) {
    return Status(StatusCode::kInternal, "shared memory is not sealed against changing its size");
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0) return status_from_errno("examine shared memory", errno);
  if (static_cast<std::uint64_t>(info.st_size) != byte_size) {
    return Status(StatusCode::kInternal, "shared memory has " + std::to_string(info.st_size) +
                                             " bytes where " + std::to_string(byte_size) +
                                             " were announced");
  }
  return Status();
}

Result<MappedRegion> map_memfd(int fd, std::uint64_t byte_size, MapAccess access) {
  const boost::interprocess::mode_t mode = access == MapAccess::kReadOnly
                                               ? boost::interprocess::read_only
                                               : boost::interprocess::read_write;
  try {
    return MappedRegion(Mappable(fd), mode, 0, byte_size);
  } catch (const boost::interprocess::interprocess_exception& exception) {
    return error(status_from_errno("map shared memory of " + std::to_string(byte_size) + " bytes",
                                   exception.get_native_error()));
  }
}

}  // namespace bucketd
