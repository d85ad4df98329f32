// RingChannel and RingLane: the shared-memory transport (common/README.md, "Channel").
//
// Thread safety: as Channel and Lane.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "libclient/channel.h"
#include "libclient/fork_awareness.h"
#include "libclient/lane.h"

namespace bucketd::internal {

class RingChannel final : public Channel {
 public:
  // `fds`: the channel's region A, region B and socket, as LaneOpened carries them; the first two
  // are only mapped. INTERNAL when they are not what `worker_incarnation`'s channel should be.
  static Result<std::shared_ptr<RingChannel>> open(std::uint64_t id,
                                                   std::uint64_t worker_incarnation,
                                                   std::span<ProcessFd> fds,
                                                   std::weak_ptr<ControlConnection> connection,
                                                   std::chrono::microseconds spin);

  bool peer_closed() const override;
  bool peer_sleeps() const override;
  bool shares_cpu_with_peer() const override;
  bool is_polled_by_system_calls() const override { return false; }
  void enable_poll(std::shared_ptr<PollSet> poll_set) override;
  void dispatch() override;

 private:
  RingChannel(std::uint64_t id, SharedMap region_a, SharedMap region_b, ProcessFd socket,
              std::weak_ptr<ControlConnection> connection, std::chrono::microseconds spin);

  void push_locked(InFlight& request) override;
  bool peer_is_gone_locked() override { return peer_closed(); }
  void notify_peer() override;
  void collect_locked() override;
  void arm_locked() override;
  void disarm_locked() override;
  void sleep(std::chrono::steady_clock::time_point until, bool interruptible) override;
  void interrupt() override;
  void closed_locked() override;

  // Takes the bytes that the worker sent to say "look". False at the end of the connection.
  bool take_bytes();
  void sleep_in_poll(std::chrono::steady_clock::time_point until);

  const SharedMap region_a_;
  const SharedMap region_b_;
  const ProcessFd socket_;
  ClientPage& client_page_;
  const WorkerPage& worker_page_;

  // Set once, under the mutex, by enable_poll(): from then on `waiting` is always kSocket.
  std::atomic<bool> by_socket_{false};
  // Of the leader only: what the words were when it armed.
  std::uint32_t seen_signal_ = 0;
  std::uint32_t seen_interrupt_ = 0;
  bool socket_ended_ = false;  // not worth polling any more
  // Ends the sleep of a leader that waits for a slot: another thread of this process frees those.
  std::atomic<std::uint32_t> interrupt_{0};
  ProcessFd interrupt_event_;  // the same for one that sleeps in poll
};

class RingLane final : public Lane {
 public:
  // `fds`: the lane's region A and region B.
  static Result<std::shared_ptr<RingLane>> open(LaneTerms terms, std::span<ProcessFd> fds,
                                                std::shared_ptr<Channel> channel,
                                                std::shared_ptr<ControlConnection> connection);
  RingLane(LaneTerms terms, SharedMap region_a, SharedMap region_b,
           std::shared_ptr<Channel> channel, std::shared_ptr<ControlConnection> connection);
  ~RingLane() override;

  std::byte* input_slot(std::uint32_t slot) override;
  const std::byte* output_slot(std::uint32_t slot) const override;
  Status prepare_slot(std::uint32_t) override { return Status(); }
  bool peer_closed() const override;
  std::chrono::nanoseconds expected_execution(std::uint32_t bucket) const override;

  // --- with the channel's mutex ---
  void push(const SubmissionEntry& entry);
  // Hands every completion entry that is there to `complete`, a copy each, until that returns
  // false. False when the ring itself is impossible.
  template <typename Complete>
  bool collect(Complete complete);

 private:
  const SharedMap region_a_;
  const SharedMap region_b_;
  LaneClientHeader& client_;
  const LaneWorkerHeader& worker_;
  // The authoritative indices; shared memory only gets copies.
  std::uint64_t submission_tail_ = 0;
  std::uint64_t completion_head_ = 0;
};

}  // namespace bucketd::internal
