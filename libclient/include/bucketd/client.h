// The bucketd client: calls bucketed models that live in the daemon, through shared memory.
//
//   auto client = bucketd::Client::connect({.connect_timeout = std::chrono::seconds(10)});
//   if (!client) return fail(client.error());
//   auto model = client->open("bert");
//   auto request = model->new_request({{1, 122}, {1, 122}});
//   request->input<std::int64_t>(0).copy_from(ids);
//   request->input<std::int64_t>(1).copy_from(mask);
//   auto reply = std::move(*request).run();
//   if (!reply) return fail(reply.error());
//   use(reply->output<float>(0), reply->bucket());
//
// The shapes are the caller's own: bucketd picks the bucket, pads, and crops the outputs back.
//
// Thread safety: Client and Model are handles to shared state; all their methods may be called from
// any thread at once, and copies are cheap. Request, Future and Reply belong to one thread at a
// time.
//
// Fork: a forked child may go on using its Client and Model handles: the first call in the child
// makes connections of its own. Requests, futures and replies made before the fork are the
// parent's; in the child they may only be destroyed.
//
// Reconnection: after the restart of a worker or of the daemon, what was in flight fails with
// ABORTED (it was being executed when the worker died, or nobody is left to say whether it was) or
// UNAVAILABLE (it was not started; safe to send again); later calls reconnect by themselves,
// waiting up to their deadline.
//
// Errors: values, never exceptions. Texts name model, input, dimension and limit.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "bucketd/tensor_span.h"

namespace bucketd {

enum class Transport : std::uint8_t {
  kRing = 0,    // shared memory (default)
  kStream = 1,  // tensors inline on a socket, for sandboxes without shared memory
};

// Where the daemon listens unless told otherwise: $BUCKETD_SOCKET, else this.
inline constexpr const char* kDefaultSocketPath = "/run/bucketd/bucketd.sock";

struct ClientOptions {
  std::string socket_path = {};  // empty: $BUCKETD_SOCKET, else kDefaultSocketPath
  Transport transport = Transport::kRing;
  // How long connect() waits for a daemon that is not there yet (it tries every 20 ms); zero: one
  // attempt.
  std::chrono::milliseconds connect_timeout{0};
  // How long a call without a deadline of its own waits for a model that is loading, a worker that
  // restarts, or a daemon that is away, before it answers UNAVAILABLE; for a free slot, before it
  // answers DEADLINE_EXCEEDED. An answer that is being computed is waited for without this limit.
  std::chrono::milliseconds reconnect_timeout{30000};
  std::string name = {};  // shown to the operator; empty: the program's name
  // Requests in flight per model that are asked for; 0: the daemon decides.
  std::uint32_t slots = 0;
  // How long at most a waiting thread looks for an answer itself before it sleeps, in microseconds:
  // when the bucket takes no longer than that, and as long as it pays. For a longer bucket it
  // sleeps until shortly before the answer is expected, and looks then. 0: it only sleeps, which
  // costs least CPU time and a wake-up a call.
  std::uint32_t spin_us = 100;
};

enum class ModelState : std::uint8_t {
  kLoading = 0,
  kReady = 1,
  kFailed = 2,
  kQuarantined = 3,
  kUnloading = 4
};
// "ready".
const char* model_state_name(ModelState state);

struct ModelSummary {
  std::string name;
  ModelState state = ModelState::kLoading;
  std::string reason;  // why it failed or is quarantined
  std::uint32_t worker_id = 0;
  std::uint32_t bucket_count = 0;
  std::uint64_t generation = 0;  // grows with every load under this name
};

enum class WorkerState : std::uint8_t {
  kStarting = 0,
  kServing = 1,
  kRestarting = 2,
  kStopped = 3
};
const char* worker_state_name(WorkerState state);

struct WorkerReport {
  std::uint32_t worker_id = 0;
  std::int32_t pid = 0;
  WorkerState state = WorkerState::kStarting;
  std::uint64_t incarnation = 0;
  std::uint32_t restarts = 0;
  std::uint32_t first_core = 0;
  std::uint32_t core_count = 0;
  std::uint64_t completed = 0;  // requests answered with OK
  std::uint64_t failed = 0;     // requests answered with an error
  std::string last_death;       // "killed by SIGSEGV while executing model 'x'"; empty if none
  std::uint64_t state_bytes_copied = 0;        // into buckets, where a slice is no view
  std::uint64_t state_bytes_written_back = 0;  // of functional updates, into views
};

struct DaemonStatus {
  std::string version;
  std::int32_t pid = 0;
  std::chrono::milliseconds uptime{0};
  std::uint32_t connections = 0;
  std::uint32_t channels = 0;
  std::uint32_t lanes = 0;
  std::uint32_t sessions = 0;
  std::vector<WorkerReport> workers;
  std::vector<ModelSummary> models;
};

enum class SessionStatus : std::uint8_t { kOpen = 0, kIdle = 1, kTorn = 2, kLost = 3 };
enum class SessionScope : std::uint8_t { kSession = 0, kModel = 1 };
const char* session_status_name(SessionStatus status);

struct SessionSummary {
  std::string id;  // empty: another user's
  std::uint32_t uid = 0;
  std::string model;
  SessionStatus status = SessionStatus::kOpen;
  SessionScope scope = SessionScope::kSession;
  std::uint64_t state_bytes = 0;
  std::chrono::milliseconds age{0};
  std::chrono::milliseconds idle{0};  // since a request of it began, or it was otherwise used
  std::uint64_t requests = 0;         // that began to run, ever
  bool has_checkpoint = false;
  std::string reason;  // why it is torn or lost
};

class Session;  // bucketd/session.h

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

namespace internal {
class ClientState;
class ModelLane;
struct InFlight;
// Gives the slot back, or abandons the request that is in flight.
struct ReleaseInFlight {
  void operator()(InFlight* request) const noexcept;
};
using InFlightHandle = std::unique_ptr<InFlight, ReleaseInFlight>;
}  // namespace internal

// The outputs of one request, in place. Destroying it gives the slot back: a model has only as many
// slots as its credits, so do not hoard replies.
class Reply {
 public:
  Reply(Reply&&) noexcept;
  Reply& operator=(Reply&&) noexcept;
  ~Reply();

  std::size_t output_count() const;
  // Output `index` cropped to the caller's sizes. Asserts index and that T is the output's dtype.
  template <typename T>
  StridedSpan<const T> output(std::size_t index) const {
    return typed<T>(raw_output(index));
  }
  // The whole output as the bucket gave it, padding included.
  template <typename T>
  StridedSpan<const T> full_output(std::size_t index) const {
    return typed<T>(raw_full_output(index));
  }
  RawTensorSpan raw_output(std::size_t index) const;
  RawTensorSpan raw_full_output(std::size_t index) const;

  std::uint32_t bucket() const;
  // From being taken out of the ring to the start of execution; and kernel, bucket and copies.
  std::chrono::nanoseconds queue_time() const;
  std::chrono::nanoseconds execute_time() const;

 private:
  friend class Future;
  explicit Reply(internal::InFlightHandle request);
  template <typename T>
  static StridedSpan<const T> typed(const RawTensorSpan& raw) {
    assert(dtype_size_bytes(raw.dtype) == sizeof(T));
    std::array<std::int64_t, kMaxRank> strides{};
    for (std::size_t d = 0; d < raw.shape.rank(); ++d) {
      strides[d] = raw.byte_strides[d] / static_cast<std::int64_t>(sizeof(T));
    }
    return {reinterpret_cast<const T*>(raw.data), raw.shape, strides};
  }
  internal::InFlightHandle request_;
};

// A request that was submitted. Destroying it before the answer abandons the request: it may still
// run, its slot comes back when its completion does.
class Future {
 public:
  Future(Future&&) noexcept;
  Future& operator=(Future&&) noexcept;
  ~Future();

  // Whether take() would return at once. Never blocks; handles completions that are there.
  bool ready();
  // Waits for the answer, at most until `deadline`: DEADLINE_EXCEEDED leaves the future as it is,
  // and it may be waited for again. Call once it succeeded never again.
  Result<Reply> wait(Deadline deadline = std::nullopt);

 private:
  friend class Request;
  explicit Future(internal::InFlightHandle request);
  internal::InFlightHandle request_;
};

// A slot with typed views of its inputs; to be filled, then run or submitted. Destroying it gives
// the slot back.
class Request {
 public:
  Request(Request&&) noexcept;
  Request& operator=(Request&&) noexcept;
  ~Request();

  // The view of input `index` in the slot, strided where the slot is laid out padded. Write-only
  // memory: what it holds before is unspecified. Asserts index and that T has the input's size.
  template <typename T>
  StridedSpan<T> input(std::size_t index) {
    const RawTensorSpan raw = raw_input(index);
    assert(dtype_size_bytes(raw.dtype) == sizeof(T));
    std::array<std::int64_t, kMaxRank> strides{};
    for (std::size_t d = 0; d < raw.shape.rank(); ++d) {
      strides[d] = raw.byte_strides[d] / static_cast<std::int64_t>(sizeof(T));
    }
    return {reinterpret_cast<T*>(raw.data), raw.shape, strides};
  }
  RawTensorSpan raw_input(std::size_t index);

  // The daemon drops the request, with DEADLINE_EXCEEDED, if it did not start by then.
  void set_deadline(Deadline deadline);
  // Among this client's requests, a higher one runs sooner. Default 0.
  void set_priority(std::uint8_t priority);
  // Whether the slot is laid out by a plan (padding without a copy).
  bool is_padded() const;

  // Sends it and returns at once; the request becomes empty. If its worker ended since the slot was
  // taken, the inputs move to a slot of the next worker: that is waited for as in new_request(),
  // until the request's deadline, and views of the old slot are over. UNAVAILABLE: not sent.
  Result<Future> submit() &&;
  // Sends it and waits for the answer, at most until the request's deadline; DEADLINE_EXCEEDED then
  // abandons it. Other errors: the daemon's own (it checks inputs again), ABORTED and UNAVAILABLE
  // (see Reconnection above), INTERNAL when the worker's answer is damaged.
  Result<Reply> run() &&;

 private:
  friend class Model;
  friend class Session;
  explicit Request(internal::InFlightHandle request);
  internal::InFlightHandle request_;
};

struct RequestOptions {
  // Until when to wait for a free slot (or for a model that is coming back); nothing: the client's
  // reconnect_timeout. A time in the past: do not wait, answer WOULD_BLOCK (UNAVAILABLE). Where the
  // worker was restarted meanwhile, even that asks the daemon for a new lane, some milliseconds.
  Deadline wait_until = std::nullopt;
  // Lay the inputs out raw even where a plan is known.
  bool force_raw = false;
};

// A model that this client uses. Keeps its name: survives reloads of the model, restarts of worker
// and daemon.
class Model {
 public:
  // As of the last (re)connection.
  ModelDescription description() const;

  // A slot for inputs of these shapes, with the model's dtypes.
  // Errors: INVALID_ARGUMENT or OUT_OF_RANGE when they do not fit the model (checked here already,
  // with the daemon's own texts); RESOURCE_EXHAUSTED when a slot cannot hold them; WOULD_BLOCK,
  // DEADLINE_EXCEEDED or UNAVAILABLE by `options`; NOT_FOUND when the model is gone.
  Result<Request> new_request(std::initializer_list<Shape> shapes,
                              const RequestOptions& options = {});
  Result<Request> new_request(std::span<const Shape> shapes, const RequestOptions& options = {});
  // The same with dtypes of the caller, and nothing checked beyond what the slot can hold: for
  // models that accept anything, and for tests of the daemon's own checks.
  Result<Request> new_unchecked_request(std::span<const TensorSignature> inputs,
                                        const RequestOptions& options = {});

  // A new session of this model; one that nobody has at present, by its id (session.h).
  // Errors: FAILED_PRECONDITION when the model holds no state, or the session is torn or in use;
  // RESOURCE_EXHAUSTED names the limit; NOT_FOUND, also for another user's session.
  Result<Session> open_session(Deadline deadline = std::nullopt);
  Result<Session> resume_session(const std::string& id, Deadline deadline = std::nullopt);

  // Slots in all, and free now, of the lane that is open; 0 in a forked child that has none yet.
  std::size_t slot_count() const;
  std::size_t free_slot_count() const;

 private:
  friend class Client;
  explicit Model(std::shared_ptr<internal::ModelLane> lane);
  std::shared_ptr<internal::ModelLane> lane_;
};

class Client {
 public:
  // Errors: UNAVAILABLE when no daemon answers in time, PERMISSION_DENIED, FAILED_PRECONDITION when
  // the daemon speaks another major protocol version.
  static Result<Client> connect(const ClientOptions& options = {});

  Result<std::vector<ModelSummary>> models();
  Result<ModelDescription> describe(const std::string& model);
  // Opens a lane to a model that is ready, or becomes so until `deadline` (default: the
  // reconnect_timeout). NOT_FOUND names the models that exist.
  Result<Model> open(const std::string& model, Deadline deadline = std::nullopt);

  // This user's sessions; everybody's (administrators). At most as many as one message of the
  // daemon holds: `is_complete`, if it is not null, gets whether these are all.
  Result<std::vector<SessionSummary>> sessions(bool all_users = false, bool* is_complete = nullptr);
  // Closes a session of this user, whoever has it. NOT_FOUND, also for another user's.
  Status close_session(const std::string& id);
  // Mends a session that is torn and that no other client has open, or one of scope `model` by the
  // id that sessions() shows: the initial values, or what its last checkpoint holds. It is idle
  // afterwards, unless this client has it open: resume it. Who has a Session uses its reset() and
  // restore(). One that is whole is set back all the same.
  // Errors: NOT_FOUND, also for another user's; FAILED_PRECONDITION when it is in use, lost, or has
  // no checkpoint (restore_session); UNAVAILABLE when its worker is away: try again.
  Status reset_session(const std::string& id, Deadline deadline = std::nullopt);
  Status restore_session(const std::string& id, Deadline deadline = std::nullopt);

  Result<DaemonStatus> status();
  // Administration. `path`: an artifact beneath the daemon's configured roots; `name`: empty takes
  // the artifact's own. Waits until the model is ready or has failed.
  Status load_model(const std::string& path, const std::string& name, Deadline deadline);
  Status unload_model(const std::string& model);

  // For event loops: readable when dispatch() has something to do. Owned by the client, constant
  // over its life. After it was asked for once, completions raise it (one system call for each
  // batch of them, for good). It may be raised with nothing to do. -1 when no descriptor is free.
  int poll_fd();
  // Handles completions and events that are there, without blocking. Then Future::ready() tells.
  void dispatch();

 private:
  explicit Client(std::shared_ptr<internal::ClientState> state);
  std::shared_ptr<internal::ClientState> state_;
};

}  // namespace bucketd
