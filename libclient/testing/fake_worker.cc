#include "libclient/testing/fake_worker.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "common/futex.h"
#include "common/message_socket.h"
#include "libclient/full_fence.h"

namespace bucketd::testing {
namespace {

// What a test cannot go on without.
template <typename T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.error().to_string() << "\n";
  std::abort();
}

std::byte* bytes_of(const MappedRegion& map) { return static_cast<std::byte*>(map.get_address()); }

}  // namespace

class FakeChannel::RingLane final : public FakeLane {
 public:
  RingLane(FakeChannel& channel, const LaneLayout& layout, std::vector<UniqueFd>& fds)
      : channel_(channel),
        layout_(layout),
        region_a_(must(create_memfd("lane-a", layout.region_a_bytes))),
        region_b_(must(create_memfd("lane-b", layout.region_b_bytes))),
        map_a_(must(map_memfd(region_a_.get(), layout.region_a_bytes, MapAccess::kReadWrite))),
        map_b_(must(map_memfd(region_b_.get(), layout.region_b_bytes, MapAccess::kReadWrite))),
        client_(*reinterpret_cast<LaneClientHeader*>(bytes_of(map_a_))),
        worker_(*reinterpret_cast<LaneWorkerHeader*>(bytes_of(map_b_))) {
    if (!seal_future_writes(region_b_.get()).ok()) std::abort();
    fds.push_back(std::move(region_a_));
    fds.push_back(std::move(region_b_));
  }

  bool take() {
    const std::uint64_t tail = client_.submission_tail.load(std::memory_order_acquire);
    if (tail == head_) return false;
    while (head_ != tail) {
      Submission submission;
      std::memcpy(&submission.entry,
                  bytes_of(map_a_) + layout_.submission_ring_offset +
                      (head_ & (layout_.slot_count - 1)) * sizeof(SubmissionEntry),
                  sizeof(SubmissionEntry));
      const std::byte* slot = bytes_of(map_a_) + layout_.input_slot_offset(submission.entry.slot);
      submission.slot.assign(slot, slot + layout_.input_slot_bytes);
      worker_.submission_head.store(++head_, std::memory_order_release);
      channel_.take_(*this, std::move(submission));
    }
    return true;
  }

  void publish(const Answer& answer) override {
    // A wrong slot number is the answer's business: the bytes go where the request's are.
    const auto slot = static_cast<std::uint32_t>(answer.entry.user_data) % layout_.slot_count;
    std::memcpy(bytes_of(map_b_) + layout_.output_slot_offset(slot), answer.slot.data(),
                std::min<std::uint64_t>(answer.slot.size(), layout_.output_slot_bytes));
    std::memcpy(bytes_of(map_b_) + layout_.completion_ring_offset +
                    (tail_ & (layout_.slot_count - 1)) * sizeof(CompletionEntry),
                &answer.entry, sizeof(CompletionEntry));
    worker_.completion_tail.store(++tail_, std::memory_order_release);
    channel_.wake_client();
  }

  void publish_nonsense() override {
    tail_ += layout_.slot_count + 1;
    worker_.completion_tail.store(tail_, std::memory_order_release);
    channel_.wake_client();
  }

  void close() override {
    worker_.closed.store(1, std::memory_order_release);
    channel_.wake_client();
  }

 private:
  FakeChannel& channel_;
  const LaneLayout layout_;
  UniqueFd region_a_;
  UniqueFd region_b_;
  MappedRegion map_a_;
  MappedRegion map_b_;
  LaneClientHeader& client_;
  LaneWorkerHeader& worker_;
  std::uint64_t head_ = 0;
  std::uint64_t tail_ = 0;
};

FakeChannel::FakeChannel(std::uint64_t channel_id, std::uint64_t incarnation, Wakeup wakeup,
                         TakeSubmission take)
    : id(channel_id),
      wakeup_(wakeup),
      take_(std::move(take)),
      region_a_(must(create_memfd("channel-a", kPageBytes))),
      region_b_(must(create_memfd("channel-b", kPageBytes))),
      map_a_(must(map_memfd(region_a_.get(), kPageBytes, MapAccess::kReadWrite))),
      map_b_(must(map_memfd(region_b_.get(), kPageBytes, MapAccess::kReadWrite))),
      client_page_(*reinterpret_cast<ClientPage*>(bytes_of(map_a_))),
      worker_page_(*reinterpret_cast<WorkerPage*>(bytes_of(map_b_))) {
  worker_page_.magic = kWorkerPageMagic;
  worker_page_.protocol_major = kProtocolMajor;
  worker_page_.protocol_minor = kProtocolMinor;
  worker_page_.worker_incarnation = incarnation;
  if (!seal_future_writes(region_b_.get()).ok()) std::abort();
  SocketPair pair = must(make_socket_pair(SOCK_STREAM));
  socket_ = std::move(pair.first);
  client_socket_ = std::move(pair.second);
  thread_ = std::thread([this] { run(); });
}

FakeChannel::~FakeChannel() { stop(); }

std::vector<UniqueFd> FakeChannel::take_client_fds() {
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(region_a_));
  fds.push_back(std::move(region_b_));
  fds.push_back(std::move(client_socket_));
  return fds;
}

FakeLane* FakeChannel::add_lane(std::uint32_t lane_id, const LaneLayout& layout,
                                std::vector<UniqueFd>& fds) {
  auto lane = std::make_unique<RingLane>(*this, layout, fds);
  lane->channel_id = id;
  lane->lane_id = lane_id;
  FakeLane* const added = lane.get();
  const std::lock_guard lock(lanes_mutex_);
  lanes_.push_back(std::move(lane));
  return added;
}

void FakeChannel::run() {
  while (!stopped_) {
    const std::uint32_t seen = client_page_.doorbell.load(std::memory_order_acquire);
    worker_page_.need_wakeup.store(static_cast<std::uint32_t>(wakeup_), std::memory_order_relaxed);
    internal::full_fence();
    if (take_submissions() || stopped_) continue;
    if (wakeup_ == Wakeup::kSocket) {
      pollfd fd{socket_.get(), POLLIN, 0};
      ::poll(&fd, 1, -1);
      std::array<char, 64> bytes;
      while (::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
      }
    } else if (wakeup_ == Wakeup::kFutex) {
      futex_wait(client_page_.doorbell, seen, std::nullopt);
    } else {
      std::this_thread::yield();
    }
  }
  // It dies idle, as workers mostly do.
  worker_page_.need_wakeup.store(static_cast<std::uint32_t>(Wakeup::kFutex));
}

bool FakeChannel::take_submissions() {
  std::vector<RingLane*> lanes;
  {
    const std::lock_guard lock(lanes_mutex_);
    for (const auto& lane : lanes_) lanes.push_back(lane.get());
  }
  bool took = false;
  for (RingLane* lane : lanes) took = lane->take() || took;
  return took;
}

void FakeChannel::wake_client() {
  internal::full_fence();
  const auto waiting = static_cast<Wakeup>(client_page_.waiting.load(std::memory_order_relaxed));
  if (waiting == Wakeup::kNone) return;
  worker_page_.signal.fetch_add(1, std::memory_order_release);
  if (waiting == Wakeup::kFutex) {
    futex_wake(worker_page_.signal, INT_MAX);
  } else {
    const char look = 0;
    ::send(socket_.get(), &look, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}

void FakeChannel::close() {
  stop();
  worker_page_.closed.store(1, std::memory_order_release);
  worker_page_.signal.fetch_add(1, std::memory_order_release);
  futex_wake(worker_page_.signal, INT_MAX);
}

void FakeChannel::stop() {
  stopped_ = true;
  client_page_.doorbell.fetch_add(1);
  futex_wake(client_page_.doorbell, INT_MAX);
  ::shutdown(socket_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

FakeStreamLane::FakeStreamLane(TakeSubmission take, UniqueFd& client_fd) : take_(std::move(take)) {
  SocketPair pair = must(make_socket_pair(SOCK_STREAM));
  socket_ = std::move(pair.first);
  client_fd = std::move(pair.second);
  thread_ = std::thread([this] { run(); });
}

FakeStreamLane::~FakeStreamLane() {
  close();
  thread_.join();
}

void FakeStreamLane::run() {
  const auto read = [this](void* into, std::size_t bytes) {
    auto* at = static_cast<std::byte*>(into);
    while (bytes > 0) {
      pollfd fd{socket_.get(), POLLIN, 0};
      ::poll(&fd, 1, -1);
      const ssize_t got = ::recv(socket_.get(), at, bytes, 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) return false;
      at += got;
      bytes -= static_cast<std::size_t>(got);
    }
    return true;
  };
  while (true) {
    StreamFrameHeader header{};
    Submission submission;
    if (!read(&header, sizeof(header)) || !read(&submission.entry, sizeof(submission.entry))) {
      return;
    }
    submission.slot.resize(header.body_bytes - sizeof(submission.entry));
    if (!read(submission.slot.data(), submission.slot.size())) return;
    take_(*this, std::move(submission));
  }
}

void FakeStreamLane::publish(const Answer& answer) {
  const StreamFrameHeader header{kStreamFrameMagic,
                                 static_cast<std::uint32_t>(StreamFrameKind::kComplete),
                                 sizeof(CompletionEntry) + answer.slot.size()};
  publish_bytes(std::as_bytes(std::span(&header, 1)));
  publish_bytes(std::as_bytes(std::span(&answer.entry, 1)));
  publish_bytes(answer.slot);
}

void FakeStreamLane::publish_nonsense() {
  const std::array<std::byte, 256> zeros{};
  publish_bytes(zeros);
}

void FakeStreamLane::publish_bytes(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    pollfd fd{socket_.get(), POLLOUT, 0};
    ::poll(&fd, 1, -1);
    const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) continue;
    if (sent <= 0) return;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

void FakeStreamLane::close() { ::shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace bucketd::testing
