#include "daemon/supervisor/state_arenas.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "common/channel_layout.h"
#include "common/memfd.h"
#include "common/system_error.h"

namespace bucketd::supervisor {

std::optional<std::uint64_t> StateArenas::arena_bytes(std::uint64_t byte_size) {
  return align_up(std::max(byte_size, kPageBytes), kPageBytes);
}

Result<std::uint32_t> StateArenas::allocate(std::uint32_t worker, std::uint64_t arena_bytes) {
  Result<UniqueFd> fd = create_memfd("bucketd-state", arena_bytes);
  if (!fd) return error(fd.error());
  const std::uint32_t id = next_id_++;
  arenas_.emplace(id, Arena{std::move(*fd), arena_bytes, worker});
  return id;
}

void StateArenas::release(std::uint32_t arena_id, WorkerSlot& slot) {
  const auto found = arenas_.find(arena_id);
  if (found == arenas_.end()) return;
  if (found->second.mapping != Mapping::kNone && slot.is_ready() &&
      found->second.mapped_by == slot.incarnation()) {
    slot.process()->ask(
        [&](flatbuffers::FlatBufferBuilder& builder) {
          return link::CreateUnmapArena(builder, arena_id);
        },
        {}, [](const link::Message*) {}, Due::kPromptly);
  }
  arenas_.erase(found);
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

bool StateArenas::is_mapped(std::uint32_t arena_id) const {
  const auto found = arenas_.find(arena_id);
  return found != arenas_.end() && found->second.mapping != Mapping::kNone;
}

void StateArenas::worker_lost(std::uint32_t worker) {
  for (auto& [id, arena] : arenas_) {
    if (arena.worker == worker) arena.mapping = Mapping::kNone;
  }
}

Status StateArenas::read(std::uint32_t arena_id, std::uint64_t offset,
                         std::span<std::byte> bytes) const {
  const auto found = arenas_.find(arena_id);
  if (found == arenas_.end()) return Status(StatusCode::kNotFound, "the state is gone");
  while (!bytes.empty()) {
    const ssize_t count =
        ::pread(found->second.fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return status_from_errno("read a state", errno);
    if (count == 0) return Status(StatusCode::kOutOfRange, "the state ends before");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return Status();
}

}  // namespace bucketd::supervisor
