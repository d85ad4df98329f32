// ControlClient: a client of the control protocol without any manners of its own: it sends what a
// test wants, in any order, and shows what came back.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "common/fd.h"
#include "common/memfd.h"
#include "common/message_socket.h"
#include "control_generated.h"
#include "daemon/supervisor/control_message.h"

namespace bucketd::testing {

// One message of the daemon.
struct Received {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;

  const wire::Message& message() const { return *wire::GetMessage(bytes.data()); }
  wire::Body type() const { return message().body_type(); }
  // The error's status; ok if it is no Error.
  Status status() const;
};

class ControlClient {
 public:
  // Fails the test when the daemon does not accept.
  explicit ControlClient(const std::string& socket_path);

  template <typename Make>
  std::uint64_t send(Make make) {
    const std::uint64_t id = next_id_++;
    send_bytes(supervisor::control_message(id, make));
    return id;
  }
  void send_bytes(const std::vector<std::byte>& bytes, const std::vector<int>& fds = {});

  // The answer to `request_id`; what comes before it is kept. Fails the test when none comes.
  Received answer(std::uint64_t request_id);
  template <typename Make>
  Received ask(Make make) {
    return answer(send(make));
  }
  // The next event (request_id 0). Fails the test when none comes.
  Received event();
  // Waits until the daemon has closed the connection. What comes before is dropped.
  bool wait_closed();

  // Hello of our version; fails the test unless it is welcomed.
  void greet();
  // "ready", "failed: reason" and so on.
  std::string state_of(const std::string& model);

  int fd() const { return socket_.get(); }

 private:
  std::optional<Received> receive();

  UniqueFd socket_;
  std::uint64_t next_id_ = 1;
  std::deque<Received> kept_;
};

// Asks `condition`, which is a round trip to the daemon, until it holds. False if it never does.
template <typename Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
  }
  return false;
}

// A ring lane as the client sees it.
class TestLane {
 public:
  // From a LaneOpened. `channel`: the lane whose channel it shares, unless it brings its own.
  explicit TestLane(Received opened, const TestLane* channel = nullptr);

  // Submits a request that does `what` (see fake_worker.cc).
  void submit(std::uint8_t what, std::uint64_t user_data, float first = 0,
              std::uint64_t session_handle = 0);
  // Waits until the worker executes, or has executed, all that was submitted.
  void wait_taken();
  // Waits for the next completion; nothing if the channel is closed first. Fails the test when
  // neither comes.
  std::optional<CompletionEntry> completion();
  // First element of the slot that `completion` names.
  float output(const CompletionEntry& completion) const;
  // Sleeps on `signal` until `closed`; how long that took. Fails the test when it never comes.
  std::chrono::milliseconds wait_closed();

  const WorkerPage& page() const { return *static_cast<const WorkerPage*>(page_->get_address()); }
  const wire::LaneOpened& opened() const { return *message_.message().body_as_LaneOpened(); }
  std::uint64_t channel_id() const { return opened().channel_id(); }
  std::uint32_t lane_id() const { return opened().lane_id(); }
  const LaneLayout& layout() const { return layout_; }
  // Region B's descriptor.
  int region_b() const { return region_b_.get(); }

 private:
  Received message_;
  LaneLayout layout_;
  std::shared_ptr<MappedRegion> page_;
  std::shared_ptr<UniqueFd> wakeup_;
  UniqueFd region_b_;
  MappedRegion a_;
  MappedRegion b_;
  std::uint64_t tail_ = 0;
  std::uint64_t head_ = 0;
};

}  // namespace bucketd::testing
