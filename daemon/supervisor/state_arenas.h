// StateArenas: the shared memory that holds sessions' states and their checkpoints.
//
// An arena is a memfd of its own for each session or checkpoint. It is never used for another one:
// so no byte of a former state can show up, and what a session held is back with the system, map
// and descriptor too, when it ends.
//
// Owned by the SessionTable.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/supervisor/worker_slot.h"

namespace bucketd::supervisor {

class StateArenas {
 public:
  // Bytes of the arena that allocate() would give for `byte_size`: whole pages. Nothing when that
  // overflows.
  static std::optional<std::uint64_t> arena_bytes(std::uint64_t byte_size);

  // An arena of `arena_bytes` (see above) for the worker, zeroed. RESOURCE_EXHAUSTED when there is
  // no memory or descriptor.
  Result<std::uint32_t> allocate(std::uint32_t worker, std::uint64_t arena_bytes);
  // Nobody uses the arena any more: the worker `slot` unmaps it, if it has it.
  void release(std::uint32_t arena_id, WorkerSlot& slot);

  // Has the present incarnation of its worker map the arena, unless it has already. What the worker
  // does with it afterwards comes after this on the link. A refusal makes the next map() try again.
  void map(std::uint32_t arena_id, WorkerSlot& slot);
  // Whether the worker has it, or was asked to and has not refused.
  bool is_mapped(std::uint32_t arena_id) const;
  // Its mappings are gone.
  void worker_lost(std::uint32_t worker);

  // The bytes at `offset` as they are now, for debugging: a request may be changing them.
  Status read(std::uint32_t arena_id, std::uint64_t offset, std::span<std::byte> bytes) const;

  std::size_t count() const { return arenas_.size(); }

 private:
  enum class Mapping { kNone, kAsked, kMapped };
  struct Arena {
    UniqueFd fd;
    std::uint64_t byte_size = 0;
    std::uint32_t worker = 0;
    Mapping mapping = Mapping::kNone;
    std::uint64_t mapped_by = 0;  // incarnation of the worker that was asked to
  };
  std::map<std::uint32_t, Arena> arenas_;
  std::uint32_t next_id_ = 1;
};

}  // namespace bucketd::supervisor
