// StateArena: memory of the supervisor's in which sessions' states lie, mapped.
#pragma once

#include <cstddef>
#include <utility>

#include "common/memfd.h"
#include "daemon/worker/gone_notice.h"

namespace bucketd {

struct StateArena {
  StateArena(GoneNotice gone_notice, MappedRegion mapped)
      : gone(std::move(gone_notice)), region(std::move(mapped)) {}

  std::byte* data() const { return static_cast<std::byte*>(region.get_address()); }
  std::uint64_t size() const { return region.get_size(); }

  GoneNotice gone;
  const MappedRegion region;
};

}  // namespace bucketd
