// ControlLink: the worker's end of the link to its supervisor (daemon/link/README.md): receives,
// verifies, hands over; sends what is in the outbox; ends when the socket ends.
//
// Thread safety: everything on the control thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"
#include "daemon/worker/event_fd.h"
#include "daemon/worker/outbox.h"
#include "worker_generated.h"

namespace bucketd {

class ControlLink {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // A verified message. An error ends the link: the supervisor does not speak our protocol.
    virtual Status on_message(const link::Message& message, std::vector<UniqueFd> fds) = 0;
    // Called after every wake: what waited may be possible now. Returns when to call it again at
    // the latest, CLOCK_MONOTONIC.
    virtual std::optional<std::uint64_t> on_wake() = 0;
  };

  // `wake` interrupts the wait; both outlive this.
  ControlLink(UniqueFd socket, const EventFd& wake, Outbox& outbox)
      : socket_(std::move(socket)), wake_(wake), outbox_(outbox) {}

  // Until the supervisor closes its end (ok), or something cannot be understood.
  Status run(Handler& handler);

 private:
  Status receive(Handler& handler);

  const UniqueFd socket_;
  const EventFd& wake_;
  Outbox& outbox_;
};

}  // namespace bucketd
