// StreamLane: a lane behind a socket. Its slots are private memory: frames are read into them, so
// that the way through the socket is the one copy, and answers wait in them until they are sent.
//
// A slot is free, being filled by the stream thread, in flight, or being sent; each belongs to one
// thread at a time. The number of slots bounds what a client can make us hold.
//
// Thread safety: complete() and close() from any thread; what is marked so by the stream thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "daemon/worker/event_fd.h"
#include "daemon/worker/lane.h"
#include "daemon/worker/private_buffer.h"

namespace bucketd {

// Wakes the stream thread. Shared with the lanes, which may outlive the server.
struct StreamMailbox {
  explicit StreamMailbox(EventFd event_fd) : event(std::move(event_fd)) {}
  const EventFd event;
  std::mutex mutex;
  std::vector<std::uint64_t> noted;  // channels of which a lane has news; guarded by mutex
};

class StreamLane : public Lane {
 public:
  // `max_body_bytes`: most that a frame may hold after its SubmissionEntry.
  StreamLane(std::shared_ptr<Channel> channel, std::uint32_t id, std::shared_ptr<LoadedModel> model,
             std::uint32_t slot_count, std::uint64_t max_body_bytes, std::uint32_t max_plans,
             std::shared_ptr<StreamMailbox> mailbox, GoneNotice gone);

  std::span<const std::byte> input(std::uint32_t slot) const override;
  bool is_private_input() const override { return true; }
  std::span<std::byte> output(std::uint32_t slot) override;
  void complete(const CompletionEntry& entry, std::uint64_t output_bytes) override;
  void close() override;

  std::uint64_t max_body_bytes() const { return max_body_bytes_; }

  // --- stream thread ---

  // A slot for a frame of `body_bytes` bytes of descriptors and tensors: where they go. Nothing
  // when every slot is taken.
  struct Filling {
    std::uint32_t slot = 0;
    std::byte* data = nullptr;  // null: no memory
  };
  std::optional<Filling> fill(std::uint64_t body_bytes, std::uint32_t clients_slot);

  // The next answer to send. Nothing if there is none.
  struct Sending {
    CompletionEntry entry{};  // names the client's slot
    std::uint32_t slot = 0;   // our own
    std::span<const std::byte> output;
  };
  std::optional<Sending> next_answer();

  // The slot's answer was sent (or nobody wants it).
  void free(std::uint32_t slot);

  bool has_free_slot() const { return !free_slots_.empty(); }
  bool is_closed() const;
  // close() was called and every answer was given out by next_answer().
  bool is_finished() const;

 private:
  struct Slot {
    PrivateBuffer input;
    std::uint64_t input_bytes = 0;
    std::uint32_t clients_slot = 0;
    PrivateBuffer output;
    CompletionEntry entry{};
    std::uint64_t output_bytes = 0;
  };
  void note();

  const std::uint64_t max_body_bytes_;
  const std::uint64_t output_capacity_;
  const std::shared_ptr<StreamMailbox> mailbox_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;  // stream thread only

  mutable std::mutex mutex_;
  std::vector<std::uint32_t> answered_;  // ring of slot_count places; guarded by mutex_
  std::uint64_t answered_head_ = 0;      // guarded by mutex_
  std::uint64_t answered_tail_ = 0;      // guarded by mutex_
  bool is_closed_ = false;               // guarded by mutex_
};

}  // namespace bucketd
