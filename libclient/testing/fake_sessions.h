// FakeSessions: what a FakeDaemon knows of sessions: the supervisor's truth and the worker's.
//
// A session's one state is a log: each request appends its first id. So a test reads from the state
// which requests ran, in which order, and since when.
//
// Thread safety: none; under the daemon's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "control_generated.h"
#include "libclient/testing/echo_model.h"

namespace bucketd::testing {

// Positions of the log: more bytes than one message of the protocol carries, and not a multiple.
inline constexpr std::int64_t kLogSize = 40000;

// The echo model with such a state, whose sequence dim is named.
ModelDescription stateful_model(const std::string& name = "stateful");

// The state's values: `log`, and after it the initial values, -i at position i.
std::vector<std::int64_t> whole_log(std::vector<std::int64_t> log);

struct FakeSession {
  std::string id;
  std::uint64_t handle = 0;  // another one in every incarnation of the worker
  std::string model;
  std::uint64_t connection = 0;  // that has it; 0: idle
  bool is_torn = false;
  std::vector<std::int64_t> log;
  std::optional<std::vector<std::int64_t>> checkpoint;
};

class FakeSessions {
 public:
  // Errors as the supervisor's.
  Result<const FakeSession*> open(std::uint64_t connection, const ModelDescription& model,
                                  const std::string& id);
  Result<const FakeSession*> operate(std::uint64_t connection, const std::string& id,
                                     wire::SessionOperation operation, std::int64_t length,
                                     bool stays_idle);
  Result<const FakeSession*> fork(std::uint64_t connection, const std::string& id);
  Result<std::span<const std::byte>> state_of(const std::string& id);
  Status close(std::uint64_t connection, const std::string& id, bool keep_state);

  // The worker's: `handle` is of that connection, and the request is run.
  Status execute(std::uint64_t connection, std::uint64_t handle, const Submission& submission);

  void connection_ended(std::uint64_t connection);
  // Sessions get other handles; those named are torn.
  void worker_died(std::span<const std::uint64_t> executing);
  // It is over, and who asks hears why.
  void end(const std::string& id, const Status& why);
  // Another daemon.
  void forget_all();

  const std::map<std::string, FakeSession>& all() const { return sessions_; }

 private:
  Result<FakeSession*> find(const std::string& id);
  FakeSession& add(std::uint64_t connection, const std::string& model);

  std::map<std::string, FakeSession> sessions_;
  std::map<std::string, Status> ended_;
  std::uint64_t next_handle_ = 1;
  std::uint64_t next_id_ = 1;
  std::vector<std::byte> read_;  // what state_of() gives
};

}  // namespace bucketd::testing
