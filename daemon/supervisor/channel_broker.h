// ChannelBroker: makes channels and lanes, and takes them away.
//
// A lane exists from the moment its memory is made until the worker has said that it is unmapped,
// or the worker was reaped; so long its bytes are charged to the client's user. The order in which
// memory is made, mapped and sealed is common/README.md's.
//
// Owned by the Supervisor. Connections and workers are known by id only, so either may go away at
// any time, whatever is under way.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "common/fd.h"
#include "common/memfd.h"
#include "daemon/supervisor/model_registry.h"
#include "daemon/supervisor/slot_plan.h"
#include "daemon/supervisor/user_accounts.h"
#include "daemon/supervisor/worker_slot.h"

namespace bucketd::supervisor {

struct LaneRequest {
  std::uint64_t connection_id = 0;
  uid_t uid = 0;
  GenerationPtr generation;  // on its worker
  link::Transport transport = link::Transport::kRing;
  std::uint32_t slots = 0;
};

// What the client gets; see LaneOpened in control.fbs for the order of descriptors.
struct LaneOffer {
  std::uint64_t channel_id = 0;
  std::uint32_t lane_id = 0;
  bool is_new_channel = false;
  std::uint64_t worker_incarnation = 0;
  SlotPlan plan;
  std::vector<UniqueFd> fds;
};

// A channel that ended, for the connection that has it.
struct ChannelEnd {
  std::uint64_t connection_id = 0;
  uid_t uid = 0;
  std::uint64_t channel_id = 0;
  bool is_known_to_client = false;          // else the connection is not to hear of it
  std::vector<ExecutingAtDeath> executing;  // its own; lanes and models were checked
};

struct LaneEnd {
  std::uint64_t connection_id = 0;
  std::uint64_t channel_id = 0;
  std::uint32_t lane_id = 0;
  std::uint32_t model_id = 0;
};

// The slot of a worker, by its id.
using SlotLookup = std::function<WorkerSlot&(std::uint32_t)>;

class ChannelBroker {
 public:
  using Opened = std::function<void(Result<LaneOffer>)>;

  // `on_progress` is called when a worker has answered something, so that lanes that could not be
  // opened before may be now.
  ChannelBroker(const LimitsConfiguration& limits, UserAccounts& accounts,
                std::function<void()> on_progress);

  // `opened` is called exactly once, perhaps from within this call, with RESOURCE_EXHAUSTED
  // (limits), UNAVAILABLE (the worker died: ask again when it is back), WOULD_BLOCK (the worker, or
  // this user, has too much under way: ask again after progress), or the worker's refusal. If the
  // connection ends first, it is called with CANCELLED.
  void open_lane(WorkerSlot& slot, const LaneRequest& request, Opened opened);

  // NOT_FOUND if the connection has no such lane.
  Status close_lane(std::uint64_t connection_id, std::uint64_t channel_id, std::uint32_t lane_id,
                    const SlotLookup& slot_of);
  // An offer that could not be delivered: its lane is closed; the channel's descriptors are kept
  // for the next offer.
  void take_back(std::uint64_t connection_id, LaneOffer offer, const SlotLookup& slot_of);
  void connection_ended(std::uint64_t connection_id, const SlotLookup& slot_of);

  // The worker was reaped: `closed` is set and waiters woken in all its channels, which are gone
  // now. Of the requests in `death.executing` only those are left that fit the channels and
  // lanes that there are.
  std::vector<ChannelEnd> worker_died(const WorkerSlot& slot, WorkerDeath& death);
  // The worker has unloaded `model_id` and closed its lanes.
  std::vector<LaneEnd> model_unloaded(std::uint32_t model_id);
  // The worker says that a lane, or a channel (`lane_id` empty), ended by itself.
  std::vector<LaneEnd> ended_by_worker(const WorkerSlot& slot, std::uint64_t channel_id,
                                       std::optional<std::uint32_t> lane_id);

  // Sets `closed` and wakes the clients of every channel, but for those of workers whose death is
  // to come: the daemon is about to stop.
  std::vector<ChannelEnd> close_all(const std::set<std::uint32_t>& but_workers);

  // The connection of a channel of this worker's present incarnation; nothing if there is none.
  std::optional<std::uint64_t> connection_of(const WorkerSlot& slot,
                                             std::uint64_t channel_id) const;
  std::size_t channel_count() const { return channels_.size(); }
  std::size_t lane_count() const;
  // Whether somebody could submit requests to this worker.
  bool has_channels(const WorkerSlot& slot) const;

 private:
  struct Lane {
    std::uint32_t model_id = 0;
    Charge bytes;
    bool is_closing = false;
    Opened opened;              // until it is open
    SlotPlan plan;              // until it is open
    std::vector<UniqueFd> fds;  // until it is open
  };
  enum class State { kOpening, kOpen, kClosing };
  struct Channel {
    std::uint64_t id = 0;
    std::uint64_t connection_id = 0;
    uid_t uid = 0;
    std::uint32_t worker_id = 0;
    std::uint64_t incarnation = 0;
    bool is_ring = true;
    bool is_known_to_client = false;
    State state = State::kOpening;
    Charge bytes;
    MappedRegion worker_page;       // ring, once the worker has mapped its own
    std::vector<UniqueFd> new_fds;  // until the client has got them
    std::uint32_t next_lane_id = 1;
    std::map<std::uint32_t, Lane> lanes;
    std::vector<std::pair<LaneRequest, Opened>> waiting;  // for the channel to open
  };

  Channel* find(std::uint64_t channel_id);
  Result<Channel*> make_channel(WorkerSlot& slot, const LaneRequest& request);
  Status send_open_channel(WorkerSlot& slot, Channel& channel);
  void channel_answered(std::uint64_t channel_id, const link::Message* message, WorkerSlot& slot);
  void add_lane(WorkerSlot& slot, Channel& channel, const LaneRequest& request, Opened opened);
  Result<std::vector<UniqueFd>> make_lane_memory(const Channel& channel, Lane& lane);
  void lane_answered(std::uint64_t channel_id, std::uint32_t lane_id, const link::Message* message);
  static void mark_closed(Channel& channel);
  void forget_channel(std::uint64_t channel_id, const Status& reason);
  std::size_t lanes_of_connection(std::uint64_t connection_id) const;
  // Channels and lanes of this user that a worker has been asked to open or close.
  std::size_t under_way(uid_t uid) const;

  const LimitsConfiguration& limits_;
  UserAccounts& accounts_;
  const std::function<void()> on_progress_;
  std::map<std::uint64_t, Channel> channels_;
  std::uint64_t next_channel_id_ = 1;
};

}  // namespace bucketd::supervisor
