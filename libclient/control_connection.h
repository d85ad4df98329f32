// ControlConnection: one SEQPACKET connection to the supervisor (common/README.md, "Control
// protocol"), with the channels that it opened.
//
// Created connected and greeted; ends once, when the daemon goes away or breaks the protocol, and
// then closes its channels. ProcessState makes the next one. There is no thread: whichever caller
// waits for an answer reads the socket and hands the others theirs. Messages are handled in the
// order of their arrival, under the mutex: the channel of a LaneOpened exists before the next
// message is looked at, so no event can come too early.
//
// Lock order: this mutex before a Channel's.
//
// Thread safety: all methods from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bucketd/status.h"
#include "control_generated.h"
#include "libclient/channel.h"
#include "libclient/fork_awareness.h"
#include "libclient/poll_set.h"

namespace bucketd::internal {

struct ConnectionOptions {
  std::string socket_path;
  std::string client_name;
  Transport transport = Transport::kRing;
  std::chrono::microseconds spin{0};
};

// An answer, verified. `channel` is set, and its own descriptors are gone from `fds`, when it is a
// LaneOpened.
struct Answer {
  std::vector<std::byte> bytes;
  std::vector<ProcessFd> fds;
  std::shared_ptr<Channel> channel;
  const wire::Message& message() const { return *wire::GetMessage(bytes.data()); }
};

// What becomes of a SessionOpened whose caller has given up: the daemon would keep for nobody what
// it opened.
enum class LateSession {
  kIgnore,  // it is somebody's already
  kClose,   // it was made for this call
  kGiveUp,  // it was resumed by this call: it stays, idle
};

class ControlConnection : public std::enable_shared_from_this<ControlConnection> {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Body = std::pair<wire::Body, flatbuffers::Offset<void>>;
  using Compose = std::function<Body(flatbuffers::FlatBufferBuilder&)>;

  // One attempt, which may take until `deadline`. UNAVAILABLE when no daemon listens or it does not
  // answer, PERMISSION_DENIED, FAILED_PRECONDITION (another protocol version), UNIMPLEMENTED (the
  // transport).
  static Result<std::shared_ptr<ControlConnection>> connect(const ConnectionOptions& options,
                                                            TimePoint deadline);
  ~ControlConnection();

  // Sends a request and waits for its answer. The daemon's error if it answers one;
  // DEADLINE_EXCEEDED; UNAVAILABLE when the connection ended (then has_ended()); INTERNAL when the
  // answer is not `expected`.
  Result<Answer> call(const Compose& compose, wire::Body expected, TimePoint deadline,
                      LateSession late = LateSession::kIgnore);
  // Takes in what is there, without blocking.
  void pump();
  // The same at most every few milliseconds: cheap enough for each request.
  void pump_now_and_then();
  // Takes in messages until `done()`, which is called with the mutex held; false at `deadline`.
  bool wait_until(const std::function<bool()>& done, TimePoint deadline);
  // A lane was destroyed. `daemon_knows`: it ended the lane itself.
  void lane_is_over(std::uint64_t channel_id, std::uint32_t lane_id, bool daemon_knows);
  // Closes a session, or gives it up with its state. The answer is not waited for.
  void post_close_session(const std::string& session_id, bool keep_state);

  void enable_poll(std::shared_ptr<PollSet> poll_set);
  // What dispatch() means for every channel.
  void dispatch();

  bool has_ended() const { return ended_.load(std::memory_order_acquire); }
  int fd() const { return has_ended() ? -1 : socket_.get(); }
  // Which run of the daemon this is: another one knows no session of this one.
  std::uint64_t daemon_incarnation() const { return daemon_incarnation_; }

 private:
  struct Pending {
    bool answered = false;
    Result<Answer> answer = error(StatusCode::kInternal, "not answered");
  };

  ControlConnection(ConnectionOptions options, ProcessFd socket);
  static Status daemon_is_away(const std::string& why);
  Status greet(TimePoint deadline);
  Status send_locked(std::unique_lock<std::mutex>& lock, std::span<const std::byte> bytes,
                     TimePoint deadline);
  // Sends what post_locked() could not, as far as the socket takes it.
  Status flush_unsent_locked();
  void post_locked(const Compose& compose);
  void post_close_session_locked(const std::string& session_id, bool keep_state);
  bool wait_locked(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done,
                   TimePoint deadline);
  void receive_all_locked();
  void handle_locked(std::vector<std::byte> bytes, std::vector<ProcessFd> fds);
  Result<Answer> take_answer_locked(std::vector<std::byte> bytes, std::vector<ProcessFd> fds);
  Result<std::shared_ptr<Channel>> take_channel_locked(const wire::LaneOpened& opened,
                                                       std::vector<ProcessFd>& fds);
  void handle_event_locked(const wire::Message& message);
  void end_locked(const Status& status);

  const ConnectionOptions options_;
  const ProcessFd socket_;
  std::uint64_t daemon_incarnation_ = 0;  // constant once it is connected

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> ended_{false};
  std::atomic<std::int64_t> last_pump_ns_{0};
  // Guarded by mutex_:
  Status end_status_;
  bool has_reader_ = false;
  std::uint64_t next_request_id_ = 1;
  std::map<std::uint64_t, Pending> pending_;
  std::map<std::uint64_t, LateSession> late_sessions_;  // of callers that gave up
  std::map<std::uint64_t, std::shared_ptr<Channel>> channels_;
  std::vector<std::vector<std::byte>> unsent_;  // what was posted and the socket did not take
  std::shared_ptr<PollSet> poll_set_;
};

}  // namespace bucketd::internal
