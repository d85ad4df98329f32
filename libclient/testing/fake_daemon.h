// FakeDaemon: a daemon in threads of the test, which speaks the real protocols and does what it is
// told, also wrong.
//
//   FakeDaemon daemon;
//   daemon.start();
//   auto client = Client::connect({.socket_path = daemon.socket_path()});
//   daemon.hold_answers();
//   auto future = std::move(*request).submit();
//   daemon.wait_for_submissions(1);   // a latch, no sleep
//   daemon.kill_worker(Executing::kAll);
//
// It serves echo models (echo_model.h). Waits give up after half a minute and abort: the test would
// hang.
//
// Thread safety: all methods from any thread of the test.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/fd.h"
#include "control_generated.h"
#include "libclient/testing/echo_model.h"
#include "libclient/testing/fake_sessions.h"
#include "libclient/testing/fake_worker.h"

namespace bucketd::testing {

// What goes wrong when a lane is opened: its layout is impossible; the connection ends instead of
// an answer; the answer waits for answer_late_lanes().
enum class LaneFault { kNone, kBadLayout, kHangUp, kLate };

// What goes wrong when a session is opened, forked or operated on: the connection ends instead of
// an answer, and nothing was done; it is done, and the answer waits for answer_late_sessions().
enum class SessionFault { kNone, kHangUp, kLate };

// What a dying worker was doing, of what was in flight.
enum class Executing { kNothing, kFirst, kAll };

struct FakeDaemonOptions {
  std::uint16_t protocol_major = kProtocolMajor;
  std::uint64_t features = kFeatureRing | kFeatureStream;
  std::uint32_t slots = 4;
  std::uint64_t slot_bytes = kPageBytes;
  Wakeup wakeup = Wakeup::kFutex;  // how its workers sleep
};

class FakeDaemon {
 public:
  explicit FakeDaemon(FakeDaemonOptions options = {});
  ~FakeDaemon();

  const std::string& socket_path() const { return socket_path_; }
  // Listens (again), with a new incarnation.
  void start();
  // Gone, as by SIGKILL: every socket ends, nothing is said in shared memory. Sessions are gone
  // too.
  void stop();
  // Every control connection ends, as if it had broken the protocol; the daemon lives.
  void end_connections();

  // Besides "echo".
  void add_model(const ModelDescription& model);

  // From now on answers wait for release_answers().
  void hold_answers();
  // Answers everything held, the oldest or the newest first, and goes on answering at once.
  void release_answers(bool newest_first = false);
  // Answers the oldest held only.
  void release_one_answer();
  // Called on every answer before it is published, to spoil it. From now on, until reset with {}.
  void spoil_answers(std::function<void(Answer&)> spoil);
  // On every lane.
  void publish_nonsense();

  // The workers die; the model is back at once.
  void kill_worker(Executing executing);
  // The same without telling the clients why: `closed` is all that they see.
  void kill_worker_silently();
  // The model's lanes end; with `is_gone`, it does not come back.
  void unload_model(const std::string& model);
  // OpenLane answers this until reset.
  void refuse_lanes(std::optional<Status> status);
  // OpenLane goes wrong so, until reset.
  void spoil_lanes(LaneFault fault);
  void answer_late_lanes();
  // Questions about sessions, but not their end, are answered so until reset.
  void refuse_sessions(std::optional<Status> status);
  void spoil_sessions(SessionFault fault);
  void answer_late_sessions();
  // The session is over: from now on who asks for it hears `why`, the worker knows it no more.
  void end_session(const std::string& id, const Status& why);
  // ReadState says that a state has so many bytes more than it has.
  void overstate_states(std::uint64_t bytes);
  // Of lanes opened from now on.
  void set_default_session(std::uint64_t handle);

  // Requests get no answer; Hello still does, unless `hello_too`.
  void stop_answering_control(bool hello_too = false);

  // Latches. Counts are since construction.
  void wait_for_submissions(std::size_t count);
  void wait_for_closed_lanes(std::size_t count);
  void wait_for_connections_to_end();
  void wait_for_session_messages(std::size_t count);

  std::vector<SubmissionEntry> submissions() const;
  std::size_t opened_lanes() const;
  std::size_t connection_count() const;
  // What was asked about sessions so far: "OpenSession".
  std::vector<std::string> session_messages() const;
  std::map<std::string, FakeSession> sessions() const;

 private:
  struct Connection {
    std::uint64_t number = 0;
    UniqueFd socket;
    std::thread thread;
    bool has_ended = false;
    std::unique_ptr<FakeChannel> channel;
    std::vector<std::unique_ptr<FakeStreamLane>> streams;
  };
  struct Held {
    FakeLane* lane = nullptr;
    Submission submission;
  };
  struct Plans {
    std::vector<std::vector<TensorSignature>> signatures;  // plan id i + 1
  };
  using Body = std::pair<wire::Body, flatbuffers::Offset<void>>;
  using Compose = std::function<Body(flatbuffers::FlatBufferBuilder&)>;

  void accept_connections(int listener);
  void serve(Connection& connection);
  void handle_locked(Connection& connection, const wire::Message& message);
  // False when it is not about sessions.
  bool handle_session_locked(Connection& connection, const wire::Message& message);
  void answer_session_locked(Connection& connection, std::uint64_t id,
                             const Result<const FakeSession*>& session);
  void list_sessions_locked(Connection& connection, std::uint64_t id);
  void open_lane_locked(Connection& connection, std::uint64_t id, const std::string& model,
                        wire::Transport transport);
  void send_locked(Connection& connection, std::uint64_t id, const Compose& compose,
                   const std::vector<UniqueFd>& fds = {});
  void refuse_locked(Connection& connection, std::uint64_t id, const Status& status);
  void take(FakeLane& lane, Submission submission);
  void answer_locked(FakeLane& lane, const Submission& submission);
  void end_channels(Executing executing, bool is_silent);
  void wait_locked(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done);

  const FakeDaemonOptions options_;
  const std::string directory_;
  const std::string socket_path_;
  UniqueFd listener_;
  std::thread acceptor_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::vector<std::unique_ptr<Connection>> connections_;
  std::map<std::string, ModelDescription> models_;
  std::uint64_t incarnation_ = 1;         // of the worker
  std::uint64_t daemon_incarnation_ = 0;  // counts starts
  std::uint64_t next_connection_ = 1;
  std::uint64_t next_channel_ = 1;
  std::uint32_t next_lane_ = 1;
  bool is_holding_ = false;
  bool answers_control_ = true;
  bool answers_hello_ = true;
  std::function<void(Answer&)> spoil_;
  std::optional<Status> lane_refusal_;
  LaneFault lane_fault_ = LaneFault::kNone;
  std::vector<std::function<void()>> late_lanes_;
  std::vector<Held> held_;
  std::map<FakeLane*, Plans> plans_;
  std::vector<SubmissionEntry> submissions_;
  std::vector<std::unique_ptr<FakeChannel>> dead_channels_;
  std::vector<std::unique_ptr<FakeStreamLane>> dead_streams_;
  FakeSessions sessions_;
  std::optional<Status> session_refusal_;
  SessionFault session_fault_ = SessionFault::kNone;
  std::vector<std::function<void()>> late_sessions_;
  std::vector<std::string> session_messages_;
  std::uint64_t default_session_ = 0;
  std::uint64_t read_excess_ = 0;
  std::size_t opened_lanes_ = 0;
  std::size_t closed_lanes_ = 0;
};

}  // namespace bucketd::testing
