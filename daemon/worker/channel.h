// Channel: one client connection as this worker sees it: its lanes, its queue, and how it is woken.
//
// A ring channel has one page in each of two shared regions and a socketpair (common/README.md,
// "Channel"); a stream channel has none of them and one lane. Requests that run keep their channel
// alive through their lane; what is mapped is unmapped when the last of them has ended.
//
// Thread safety: wake_client() and wake_client_always() may be called from any thread; members
// marked so are guarded by the Scheduler's mutex.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/channel_layout.h"
#include "common/fd.h"
#include "common/memfd.h"
#include "daemon/worker/gone_notice.h"
#include "daemon/worker/request_queue.h"

namespace bucketd {

class Channel {
 public:
  // `connection_id`: whose sessions its requests may name.
  Channel(std::uint64_t id, std::uint64_t connection_id, GoneNotice gone)
      : gone_(std::move(gone)), id_(id), connection_id_(connection_id) {}
  virtual ~Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  std::uint64_t id() const { return id_; }
  std::uint64_t connection_id() const { return connection_id_; }

  // See GoneNotice.
  const GoneNotice::Flag& gone_flag() const { return gone_.flag(); }

  // Guarded by the Scheduler's mutex.
  struct Scheduling {
    std::vector<std::shared_ptr<Lane>> lanes;
    std::shared_ptr<ClientQueue> queue;  // shared by all channels of the connection
    bool is_broken = false;              // violated the protocol: nothing more is read from it
    std::uint64_t taken = 0;             // requests, ever
    std::uint64_t taken_before = 0;      // as of the last judgement of its doorbell
    std::uint32_t idle_rings = 0;        // doorbells in a row that brought no work
    std::size_t watch_index = 0;         // where the Doorbells have it
  };
  Scheduling scheduling;

 private:
  GoneNotice gone_;
  const std::uint64_t id_;
  const std::uint64_t connection_id_;
};

class RingChannel : public Channel {
 public:
  // Maps region A (one page, read-only) and region B (one page, writable), and writes B's header.
  // `socket`: the worker's end of the pair. Errors: INTERNAL when a region is not what it should
  // be.
  static Result<std::shared_ptr<RingChannel>> open(std::uint64_t id, std::uint64_t connection_id,
                                                   std::uint64_t worker_incarnation,
                                                   const UniqueFd& region_a,
                                                   const UniqueFd& region_b, UniqueFd socket,
                                                   GoneNotice gone);

  RingChannel(std::uint64_t id, std::uint64_t connection_id, MappedRegion region_a,
              MappedRegion region_b, UniqueFd socket, GoneNotice gone)
      : Channel(id, connection_id, std::move(gone)),
        region_a_(std::move(region_a)),
        region_b_(std::move(region_b)),
        socket_(std::move(socket)) {}

  const std::atomic<std::uint32_t>& doorbell() const { return client_page().doorbell; }
  std::atomic<std::uint32_t>& need_wakeup() { return worker_page().need_wakeup; }
  // What ClientPage::cpu says: whatever the client wrote there.
  std::uint32_t client_cpu() const { return client_page().cpu.load(std::memory_order_relaxed); }
  int socket() const { return socket_.get(); }

  // To be called after completions were published: wakes the client if it says that it sleeps.
  void wake_client();

  // Wakes the client whatever it says: after `closed` of a lane was set.
  void wake_client_always();

 private:
  const ClientPage& client_page() const {
    return *static_cast<const ClientPage*>(region_a_.get_address());
  }
  WorkerPage& worker_page() { return *static_cast<WorkerPage*>(region_b_.get_address()); }
  void send_byte();

  const MappedRegion region_a_;
  const MappedRegion region_b_;
  const UniqueFd socket_;
};

}  // namespace bucketd
