// StreamChannel and StreamLane: the stream transport (common/channel_layout.h, StreamFrameHeader).
//
// A stream channel has one lane. Its slots are private memory laid out as in a ring's lane, so that
// everything above is the same code. A frame that the socket does not take at once is finished by
// whoever next submits, waits, looks or dispatches: there is no thread to do it meanwhile.
//
// Thread safety: as Channel and Lane.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "common/channel_layout.h"
#include "libclient/channel.h"
#include "libclient/fork_awareness.h"
#include "libclient/lane.h"

namespace bucketd::internal {

class StreamChannel final : public Channel {
 public:
  StreamChannel(std::uint64_t id, ProcessFd socket, std::weak_ptr<ControlConnection> connection,
                std::chrono::microseconds spin);

  bool peer_closed() const override { return ended_.load(std::memory_order_acquire); }
  bool peer_sleeps() const override { return true; }
  bool shares_cpu_with_peer() const override { return false; }
  bool is_polled_by_system_calls() const override { return true; }
  void enable_poll(std::shared_ptr<PollSet> poll_set) override;
  void dispatch() override;

 private:
  void push_locked(InFlight& request) override;
  bool peer_is_gone_locked() override;
  void notify_peer() override {}
  void collect_locked() override;
  void arm_locked() override {}
  void disarm_locked() override {}
  void sleep(std::chrono::steady_clock::time_point until, bool interruptible) override;
  void interrupt() override;
  void closed_locked() override;
  void lane_removed_locked() override;

  // What precedes the descriptors in a frame of either direction.
  struct Head {
    StreamFrameHeader frame;
    std::array<std::byte, sizeof(SubmissionEntry)> entry;
  };
  static_assert(sizeof(Head) == sizeof(StreamFrameHeader) + sizeof(SubmissionEntry));

  // Sends what the socket takes.
  void send_locked();
  // Receives one step of a frame; false when nothing more is there.
  bool receive_locked();
  // The head of a frame is complete: finds its slot. False, and the channel is closed, when it is
  // nonsense.
  bool begin_body_locked();
  void end_locked();
  void violation_locked(const std::string& what);

  ProcessFd socket_;
  ProcessFd interrupt_event_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> has_unsent_{false};

  // --- guarded by mutex_ ---
  std::vector<InFlight*> unsent_;  // the first one is being sent
  Head out_head_{};
  std::uint64_t out_sent_ = 0;  // of the first one's frame, head included
  Head in_head_{};
  std::uint64_t in_received_ = 0;  // of the frame, head included
  InFlight* in_request_ = nullptr;
};

class StreamLane final : public Lane {
 public:
  StreamLane(LaneTerms terms, std::shared_ptr<Channel> channel,
             std::shared_ptr<ControlConnection> connection);
  ~StreamLane() override;

  std::byte* input_slot(std::uint32_t slot) override { return memory_[slot].input; }
  const std::byte* output_slot(std::uint32_t slot) const override { return memory_[slot].output; }
  std::byte* writable_output_slot(std::uint32_t slot) { return memory_[slot].output; }
  Status prepare_slot(std::uint32_t slot) override;
  bool peer_closed() const override { return false; }
  std::chrono::nanoseconds expected_execution(std::uint32_t) const override {
    return std::chrono::nanoseconds(0);
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct SlotMemory {
    std::unique_ptr<void, Free> allocation;
    std::byte* input = nullptr;
    std::byte* output = nullptr;
  };
  std::vector<SlotMemory> memory_;
};

}  // namespace bucketd::internal
