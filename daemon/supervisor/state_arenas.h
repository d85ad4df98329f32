// StateArenas: the shared memory that holds sessions' state.
//
// First form: one arena per session, of a size class (a power of two of pages), kept for another
// session of that class when it is released. A worker never unmaps one: to forget free arenas and
// make new ones would use up its address space, so there are as many as there were sessions at
// once, until its worker ends. Released memory is given back to the system at once (its pages are
// punched out), so a reused arena reads as zeros. The supervisor itself maps none: it neither reads
// nor writes state.
//
// Owned by the SessionTable.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <cstdint>
#include <map>

#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/supervisor/worker_slot.h"

namespace bucketd::supervisor {

class StateArenas {
 public:
  // Bytes of the arena that allocate() would give for `byte_size`.
  static std::uint64_t size_class(std::uint64_t byte_size);

  // An arena for the worker, zeroed. RESOURCE_EXHAUSTED when there is no memory.
  Result<std::uint32_t> allocate(std::uint32_t worker, std::uint64_t byte_size);
  // The arena is free; nobody may use its memory any more.
  void release(std::uint32_t arena_id);

  // Has the present incarnation of its worker map the arena, unless it has already. What the worker
  // does with it afterwards comes after this on the link. A refusal makes the next map() try again.
  void map(std::uint32_t arena_id, WorkerSlot& slot);
  // Its mappings are gone; free arenas go with them.
  void worker_lost(std::uint32_t worker);

  std::size_t count() const { return arenas_.size(); }

 private:
  enum class Mapping { kNone, kAsked, kMapped };
  struct Arena {
    UniqueFd fd;
    std::uint64_t byte_size = 0;
    std::uint32_t worker = 0;
    bool is_free = false;
    Mapping mapping = Mapping::kNone;
    std::uint64_t mapped_by = 0;  // incarnation of the worker that was asked to
  };
  std::map<std::uint32_t, Arena> arenas_;
  std::uint32_t next_id_ = 1;
};

}  // namespace bucketd::supervisor
