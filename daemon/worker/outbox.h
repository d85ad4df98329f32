// Outbox: messages to the supervisor, from any thread. The control thread sends them.
//
// Thread safety: post() from any thread, also with the Scheduler's mutex held; flush() from the
// control thread.
#pragma once

#include <flatbuffers/flatbuffers.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "common/message_socket.h"
#include "common/wire/model_wire.h"
#include "daemon/worker/event_fd.h"
#include "worker_generated.h"

namespace bucketd {

class Outbox {
 public:
  // `control` is notified of every message; it outlives this.
  explicit Outbox(const EventFd* control) : control_(control) {}

  // Queues a message whose body `make(builder)` makes. False, and nothing is queued, when it is
  // larger than a packet may be.
  template <typename Make>
  bool post(std::uint64_t request_id, Make make) {
    flatbuffers::FlatBufferBuilder builder;
    const auto body = make(builder);
    return queue(request_id, builder, BodyOf<decltype(body)>::kType, body.Union());
  }

  void refuse(std::uint64_t request_id, const Status& status) {
    post(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
      return link::CreateRefused(builder, wire::to_wire(builder, status));
    });
  }

  // Sends what is queued. WOULD_BLOCK when some is left, UNAVAILABLE when the supervisor is gone.
  Status flush(int socket) {
    while (true) {
      std::vector<std::byte> bytes;
      {
        const std::lock_guard lock(mutex_);
        if (queue_.empty()) return Status();
        bytes = std::move(queue_.front());
        queue_.pop_front();
      }
      if (Status status = send_message(socket, bytes); !status.ok()) {
        const std::lock_guard lock(mutex_);
        queue_.push_front(std::move(bytes));
        return status;
      }
    }
  }

 private:
  template <typename Offset>
  struct BodyOf;
  template <typename T>
  struct BodyOf<const flatbuffers::Offset<T>> {
    static constexpr link::Body kType = link::BodyTraits<T>::enum_value;
  };

  bool queue(std::uint64_t request_id, flatbuffers::FlatBufferBuilder& builder, link::Body type,
             flatbuffers::Offset<void> body) {
    builder.Finish(link::CreateMessage(builder, request_id, type, body));
    if (builder.GetSize() > kMaxPacketBytes) return false;
    const auto* data = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
    {
      const std::lock_guard lock(mutex_);
      queue_.emplace_back(data, data + builder.GetSize());
    }
    control_->notify();
    return true;
  }

  const EventFd* const control_;
  std::mutex mutex_;
  std::deque<std::vector<std::byte>> queue_;  // guarded by mutex_
};

}  // namespace bucketd
