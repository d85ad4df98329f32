// StreamConnection: the socket of one stream lane: takes frames apart and puts answers together.
//
// Thread safety: the stream thread only. Never blocks: every call has MSG_DONTWAIT, since the other
// end's owner may clear flags of a description that it shares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/channel_layout.h"
#include "common/fd.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/stream_lane.h"

namespace bucketd {

// Bytes that one connection may move before the others get their turn.
inline constexpr std::uint64_t kStreamBytesATurn = 1 << 20;

class StreamConnection {
 public:
  StreamConnection(std::shared_ptr<StreamLane> lane, UniqueFd socket)
      : lane_(std::move(lane)), socket_(std::move(socket)) {}

  int socket() const { return socket_.get(); }
  StreamLane& lane() { return *lane_; }
  const std::shared_ptr<StreamLane>& shared_lane() const { return lane_; }

  enum class Progress {
    kWaiting,  // for the socket, or for a free slot (see wants_to_read)
    kMore,     // had its turn; there may be more
    kEnded,    // the client closed it, or it failed
    kViolated  // see violation()
  };

  // Reads and submits what is there, for one turn.
  Progress receive(Scheduler& scheduler);
  // Sends what is there, for one turn.
  Progress send();

  bool wants_to_read() const { return filling_.has_value() || lane_->has_free_slot(); }
  bool wants_to_write() const { return sending_.has_value(); }
  const std::string& violation() const { return violation_; }

 private:
  // A frame's fixed beginning.
  struct Head {
    StreamFrameHeader frame;
    std::byte entry[sizeof(SubmissionEntry)];
  };
  static_assert(sizeof(Head) == sizeof(StreamFrameHeader) + sizeof(SubmissionEntry));

  bool begin_body();
  void submit(Scheduler& scheduler);
  std::optional<Progress> receive_into(std::byte* data, std::uint64_t bytes, std::uint64_t& got);

  const std::shared_ptr<StreamLane> lane_;
  const UniqueFd socket_;

  Head in_head_{};
  std::uint64_t head_got_ = 0;
  std::optional<StreamLane::Filling> filling_;
  std::uint64_t body_bytes_ = 0;
  std::uint64_t body_got_ = 0;
  bool is_discarding_ = false;  // there was no memory for this frame
  std::string violation_;

  Head out_head_{};
  std::optional<StreamLane::Sending> sending_;
  std::uint64_t sent_ = 0;
};

}  // namespace bucketd
