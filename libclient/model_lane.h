// ModelLane: what all copies of a Model share: a model by name, and the lane to it that is open
// now.
//
// Thread safety: all methods from any thread.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "bucketd/client.h"
#include "libclient/client_state.h"
#include "libclient/fork_awareness.h"
#include "libclient/lane.h"

namespace bucketd::internal {

class ModelLane : public std::enable_shared_from_this<ModelLane> {
 public:
  // `lane` is open.
  ModelLane(std::shared_ptr<ClientState> client, std::string name, std::shared_ptr<Lane> lane);
  // To be called once, when a shared_ptr owns it.
  void adopt_lane();

  const std::string& name() const { return name_; }
  ClientState& client() const { return *client_; }

  ModelDescription description() const;
  // The lane that is open, or a new one when it is closed: waits for that until `deadline`.
  Result<std::shared_ptr<Lane>> lane(TimePoint deadline);
  // The lane as it is; null after a fork.
  std::shared_ptr<Lane> present_lane() const;

  // A slot laid out for these inputs, checked against the description, or not; of `session`, if it
  // is not null.
  Result<InFlight*> new_request(std::span<const TensorSignature> inputs, bool is_checked,
                                const RequestOptions& options, SessionState* session = nullptr);
  Result<InFlight*> new_request(std::span<const Shape> shapes, const RequestOptions& options,
                                SessionState* session = nullptr);
  // The same inputs in a slot of the lane that is open now; for a request whose lane has ended.
  Result<InFlight*> move_request(InFlight& request);

 private:
  struct ProcessLane {
    std::mutex mutex;
    std::condition_variable changed;
    // Guarded by mutex:
    bool is_opening = false;
    std::shared_ptr<Lane> lane;
  };

  // `inputs_for(lane)` gives what is to be laid out, or why the lane's model cannot take it.
  Result<InFlight*> start_request(const auto& inputs_for, const RequestOptions& options,
                                  SessionState* session);

  const std::shared_ptr<ClientState> client_;
  const std::string name_;
  // As it was opened first: what a forked child knows before it has a lane of its own.
  const std::shared_ptr<const ModelDescription> first_description_;
  ForkLocal<ProcessLane> process_;
};

}  // namespace bucketd::internal
