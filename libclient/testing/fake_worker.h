// FakeChannel and FakeLane: a worker's end of the two transports, in threads of the test.
//
// They hand every submission to a callback and publish what they are given, however wrong: nothing
// here computes or checks. Owned by FakeDaemon.
//
// Thread safety: as stated at each method.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/channel_layout.h"
#include "common/fd.h"
#include "common/memfd.h"
#include "libclient/testing/echo_model.h"

namespace bucketd::testing {

class FakeLane {
 public:
  virtual ~FakeLane() = default;
  // Writes an answer and wakes the client. From one thread at a time.
  virtual void publish(const Answer& answer) = 0;
  // The model was unloaded.
  virtual void close() = 0;
  // Of a ring: says that so many completions more are there than are. Of a stream: sends bytes that
  // are no frame.
  virtual void publish_nonsense() = 0;

  std::uint64_t channel_id = 0;
  std::uint32_t lane_id = 0;
  std::uint64_t connection = 0;  // number of the client's
  std::string model;
};

using TakeSubmission = std::function<void(FakeLane&, Submission)>;

// One page pair and any number of lanes; a thread that sleeps as a worker does.
class FakeChannel {
 public:
  FakeChannel(std::uint64_t id, std::uint64_t incarnation, Wakeup wakeup, TakeSubmission take);
  ~FakeChannel();

  // Descriptors for the client, in LaneOpened's order. Once.
  std::vector<UniqueFd> take_client_fds();
  // A lane; its descriptors for the client are appended to `fds`.
  FakeLane* add_lane(std::uint32_t lane_id, const LaneLayout& layout, std::vector<UniqueFd>& fds);
  // As the supervisor does when the worker is dead: nothing more is answered.
  void close();
  // Ends the thread: as if killed, nothing is said.
  void stop();

  const std::uint64_t id;

 private:
  class RingLane;

  void run();
  bool take_submissions();
  void wake_client();

  const Wakeup wakeup_;
  const TakeSubmission take_;
  UniqueFd region_a_;
  UniqueFd region_b_;
  MappedRegion map_a_;
  MappedRegion map_b_;
  ClientPage& client_page_;
  WorkerPage& worker_page_;
  UniqueFd socket_;
  UniqueFd client_socket_;
  std::mutex lanes_mutex_;
  std::vector<std::unique_ptr<RingLane>> lanes_;  // guarded by lanes_mutex_
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

// A stream lane with its thread.
class FakeStreamLane final : public FakeLane {
 public:
  // `client_fd` gets the client's end.
  FakeStreamLane(TakeSubmission take, UniqueFd& client_fd);
  ~FakeStreamLane() override;

  void publish(const Answer& answer) override;
  void close() override;
  void publish_nonsense() override;

 private:
  void publish_bytes(std::span<const std::byte> bytes);
  void run();

  const TakeSubmission take_;
  UniqueFd socket_;
  std::thread thread_;
};

}  // namespace bucketd::testing
