// Lane: the client's end of one open lane, and InFlight: one of its slots with the request in it.
//
// A lane belongs to one channel and dies with it; ModelLane opens the next one. The transport gives
// the memory (RingLane, StreamLane); slots, requests and plans are alike. Everything that a
// Request, Future or Reply refers to lies in its InFlight, which keeps the lane, and with it the
// memory, alive until the handle lets go: also after the channel's end.
//
// Thread safety: "guarded by the channel" is under Channel's mutex. The rest of an InFlight belongs
// to the handle that holds it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "libclient/completion_check.h"
#include "libclient/forecast.h"
#include "libclient/plan_cache.h"
#include "libclient/request_layout.h"

namespace bucketd::internal {

class Channel;
class ControlConnection;
class Lane;
class ModelLane;
class SessionState;

enum class SlotState : std::uint32_t {
  kFree,
  kHeld,       // a Request is being filled, or a Reply being read
  kSubmitted,  // the worker's
  kAbandoned,  // the worker's, and nobody waits for it
  kDone,       // `completion` is there
  kFailed,     // `failure` says why there will be none
};

struct InFlight {
  // --- constant ---
  Lane* lane = nullptr;
  std::uint32_t slot = 0;

  // --- guarded by the channel; `state` may be read without, to see that it is over ---
  std::atomic<SlotState> state{SlotState::kFree};
  std::uint32_t use = 0;  // grows with every submission, the upper half of user_data
  CompletionEntry completion{};
  std::uint64_t order = 0;  // of this submission, among all of the lane
  std::chrono::steady_clock::time_point submitted_at;
  std::chrono::nanoseconds expected{0};  // to execute; 0: not known
  std::uint64_t output_bytes = 0;        // of the output slot that hold this answer
  Status failure;

  // --- of the handle that holds it ---
  std::shared_ptr<Lane> keep_alive;
  std::vector<TensorSignature> signature;
  std::vector<InputPlacement> inputs;
  std::uint64_t input_bytes = 0;     // descriptors and tensors
  std::shared_ptr<const Plan> plan;  // null: raw
  std::uint64_t filled_by = 0;       // key of the plan whose padding the slot still holds
  bool is_checked = true;            // check_inputs() was asked for
  Deadline deadline;
  std::uint8_t priority = 0;
  // What the worker is told, 0: none. The Session that it comes from, if it comes from one, whose
  // handles may be gone.
  std::uint64_t session_handle = 0;
  bool has_session = false;
  std::weak_ptr<SessionState> session;
  std::vector<OutputPlacement> outputs;  // of a Reply

  std::uint64_t user_data() const { return std::uint64_t{use} << 32 | slot; }
  // Whether the worker may answer it under that number.
  bool is_in_flight(std::uint64_t number) const {
    const SlotState now = state.load(std::memory_order_relaxed);
    return (now == SlotState::kSubmitted || now == SlotState::kAbandoned) && number == user_data();
  }
  bool is_over() const {
    const SlotState now = state.load(std::memory_order_acquire);
    return now == SlotState::kDone || now == SlotState::kFailed;
  }
};

// What LaneOpened says.
struct LaneTerms {
  std::uint64_t channel_id = 0;
  std::uint32_t lane_id = 0;
  std::uint64_t worker_incarnation = 0;
  LaneLayout layout;
  std::uint64_t max_request_bytes = 0;
  std::uint64_t default_session_handle = 0;  // of requests without a Session; 0: none
  std::shared_ptr<const ModelDescription> model;
};

class Lane : public std::enable_shared_from_this<Lane> {
 public:
  // `connection` lives as long as the lane does, and is told when the lane is over (CloseLane).
  Lane(LaneTerms terms, std::shared_ptr<Channel> channel,
       std::shared_ptr<ControlConnection> connection);
  virtual ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  const ModelDescription& model() const { return *terms_.model; }
  const LaneTerms& terms() const { return terms_; }
  const LaneLayout& layout() const { return terms_.layout; }
  Channel& channel() const { return *channel_; }
  ControlConnection& connection() const { return *connection_; }
  // Of every lane of this process another, later ones higher. Never 0.
  std::uint64_t serial() const { return serial_; }

  // Whether nothing new can be submitted; may be a moment late.
  bool is_closed() const;
  // What is_closed() means to a caller.
  Status gone() const;
  // Takes in what the control connection has to say: a daemon that is gone cannot say so in shared
  // memory. The first at most every few milliseconds, so that busy requests pay no system call; the
  // second whenever the worker sleeps, when waking it costs one anyway. A stream always looks.
  void look_now_and_then();
  void look_before_submission();

  // The slot's memory. Null for a stream's slot that was never used.
  virtual std::byte* input_slot(std::uint32_t slot) = 0;
  virtual const std::byte* output_slot(std::uint32_t slot) const = 0;
  // Makes the slot's memory exist. RESOURCE_EXHAUSTED.
  virtual Status prepare_slot(std::uint32_t slot) = 0;
  // Whether the worker says in shared memory that the lane is over.
  virtual bool peer_closed() const = 0;
  // How long the worker expects a request of that bucket to execute; 0: it does not say. A hint.
  virtual std::chrono::nanoseconds expected_execution(std::uint32_t bucket) const = 0;

  // --- guarded by the channel ---
  std::vector<InFlight> slots;
  std::vector<std::uint32_t> free_slots;  // the last one was used last and is warm
  PlanCache plans;
  std::uint64_t submissions = 0;          // so far
  std::uint32_t last_bucket = kNoBucket;  // of the last answer
  Forecast forecast;
  std::atomic<bool> closed{false};  // may be read without
  bool closed_by_daemon = false;
  Status closed_status;

  // The ModelLane that a request belongs to, if it still exists. Set once, before first use.
  std::weak_ptr<ModelLane> owner;

 protected:
  // For the destructors of both transports, while their memory is still there.
  void leave_channel();

 private:
  const std::uint64_t serial_;
  const LaneTerms terms_;
  const std::shared_ptr<Channel> channel_;
  const std::shared_ptr<ControlConnection> connection_;
};

}  // namespace bucketd::internal
