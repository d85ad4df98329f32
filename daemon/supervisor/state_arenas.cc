#include "daemon/supervisor/state_arenas.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

#include "common/channel_layout.h"
#include "common/memfd.h"
#include "common/system_error.h"

namespace bucketd::supervisor {

std::uint64_t StateArenas::size_class(std::uint64_t byte_size) {
  return std::bit_ceil(std::max(byte_size, kPageBytes));
}

Result<std::uint32_t> StateArenas::allocate(std::uint32_t worker, std::uint64_t byte_size) {
  const std::uint64_t size = size_class(byte_size);
  for (auto& [id, arena] : arenas_) {
    if (!arena.is_free || arena.worker != worker || arena.byte_size != size) continue;
    arena.is_free = false;
    return id;
  }
  Result<UniqueFd> fd = create_memfd("bucketd-state", size);
  if (!fd) return error(fd.error());
  const std::uint32_t id = next_id_++;
  arenas_.emplace(id, Arena{std::move(*fd), size, worker});
  return id;
}

void StateArenas::release(std::uint32_t arena_id) {
  const auto found = arenas_.find(arena_id);
  if (found == arenas_.end()) return;
  Arena& arena = found->second;
  const bool zeroed = ::fallocate(arena.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                  static_cast<off_t>(arena.byte_size)) == 0;
  if (!zeroed || arena.mapping != Mapping::kMapped) {
    if (!zeroed) spdlog::error("{}", status_from_errno("zero a state arena", errno).message());
    arenas_.erase(found);  // never reused; the worker's mapping of it is only address space
    return;
  }
  arena.is_free = true;
}

void StateArenas::map(std::uint32_t arena_id, WorkerSlot& slot) {
  const auto found = arenas_.find(arena_id);
  if (found == arenas_.end() || found->second.mapping != Mapping::kNone ||
      slot.process() == nullptr) {
    return;
  }
  std::vector<UniqueFd> fds;
  fds.emplace_back(::fcntl(found->second.fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!fds.back()) return;  // the session's binding will be refused
  slot.process()->ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateMapArena(builder, arena_id, found->second.byte_size);
      },
      std::move(fds),
      [this, arena_id, incarnation = slot.incarnation()](const link::Message* message) {
        const auto asked = arenas_.find(arena_id);
        if (asked == arenas_.end() || asked->second.mapped_by != incarnation) return;
        const bool is_mapped = message != nullptr && message->body_as_Acknowledged() != nullptr;
        asked->second.mapping = is_mapped ? Mapping::kMapped : Mapping::kNone;
      },
      Due::kPromptly);
  found->second.mapping = Mapping::kAsked;
  found->second.mapped_by = slot.incarnation();
}

void StateArenas::worker_lost(std::uint32_t worker) {
  std::erase_if(arenas_, [&](const auto& item) {
    return item.second.worker == worker && item.second.is_free;
  });
  for (auto& [id, arena] : arenas_) {
    if (arena.worker == worker) arena.mapping = Mapping::kNone;
  }
}

}  // namespace bucketd::supervisor
