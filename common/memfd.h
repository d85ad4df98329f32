// Memfd: anonymous shared memory that travels by descriptor, and maps of it.
//
// Only the supervisor creates one. A receiver checks size and seals before it maps (check_sealed),
// so that no later truncation can turn an access into a fault.
#pragma once

#include <boost/interprocess/detail/os_file_functions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "bucketd/status.h"
#include "common/fd.h"

namespace bucketd {

// A map of a whole memfd, or of its first bytes. Movable; unmaps at its end.
using MappedRegion = boost::interprocess::mapped_region;

enum class MapAccess { kReadOnly, kReadWrite };

// Creates zeroed shared memory of `byte_size` bytes (> 0), sealed against growing and shrinking.
// `label` shows in /proc/PID/maps of processes that map it; it is no name to open.
Result<UniqueFd> create_memfd(const std::string& label, std::uint64_t byte_size);

// Adds F_SEAL_FUTURE_WRITE and F_SEAL_SEAL: maps that exist keep writing, no new writable map can
// be made, by anybody.
Status seal_future_writes(int fd);

// Checks that `fd` is a memfd of exactly `byte_size` bytes that can neither shrink nor grow.
Status check_sealed(int fd, std::uint64_t byte_size);

// Maps the first `byte_size` bytes, shared.
Result<MappedRegion> map_memfd(int fd, std::uint64_t byte_size, MapAccess access);

}  // namespace bucketd
