// StreamServer: the thread that serves all stream lanes. Requests that it reads go to the
// scheduler like those of the rings.
//
// A lane that is closed sends what is answered for kLingerNs at most, then its socket is closed. A
// client that ends its socket ends its lane: queued requests are dropped.
//
// Thread safety: add() from the control thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/stream_connection.h"
#include "daemon/worker/stream_lane.h"

namespace bucketd {

inline constexpr std::uint64_t kLingerNs = 1'000'000'000;

class StreamServer {
 public:
  // A client ended its stream. Called on the stream thread; `gone` is set when nothing of the lane
  // is left.
  using EndSink = std::function<void(std::uint64_t channel_id, std::uint32_t lane_id,
                                     const GoneNotice::Flag& gone)>;

  // Starts the thread. `scheduler` outlives this.
  static Result<std::unique_ptr<StreamServer>> make(Scheduler& scheduler, EndSink on_end);
  // Ends it; sockets are closed.
  ~StreamServer();
  StreamServer(const StreamServer&) = delete;
  StreamServer& operator=(const StreamServer&) = delete;

  const std::shared_ptr<StreamMailbox>& mailbox() const { return mailbox_; }

  // Serves `socket` for a lane that the scheduler has already; its channel has no other.
  void add(std::shared_ptr<StreamLane> lane, UniqueFd socket);

  // Calls `then` on the stream thread when what the connection's sockets hold now was read, as far
  // as its lanes have free slots. Not called if the server ends before. From any thread.
  void when_read(std::uint64_t connection_id, std::function<void()> then);

 private:
  struct Served {
    Served(std::shared_ptr<StreamLane> lane, UniqueFd socket)
        : connection(std::move(lane), std::move(socket)) {}
    StreamConnection connection;
    std::uint32_t watched = 0;                     // epoll events
    std::optional<std::uint64_t> linger_until_ns;  // its lane was closed
  };

  StreamServer(Scheduler& scheduler, EndSink on_end, UniqueFd epoll,
               std::shared_ptr<StreamMailbox> mailbox);
  void run();
  void take_mail();
  void serve(std::uint64_t channel_id, bool readable);
  void read_what_is_there(std::uint64_t connection_id);
  void end(std::uint64_t channel_id);
  // How long to sleep; ends connections that lingered long enough.
  int end_lingering();

  Scheduler& scheduler_;
  const EndSink on_end_;
  const UniqueFd epoll_;
  const std::shared_ptr<StreamMailbox> mailbox_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Served>> added_;  // guarded by mutex_
  struct Question {
    std::uint64_t connection_id = 0;
    std::function<void()> then;
  };
  std::vector<Question> questions_;  // guarded by mutex_
  std::atomic<bool> is_stopping_{false};

  // The thread's own.
  std::unordered_map<std::uint64_t, std::unique_ptr<Served>> served_;  // by channel
  std::vector<std::uint64_t> lingering_;
  std::thread thread_;  // last: uses all of it
};

}  // namespace bucketd
