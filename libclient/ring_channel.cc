#include "libclient/ring_channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "common/futex.h"
#include "common/spin_budget.h"
#include "libclient/full_fence.h"
#include "libclient/poll_wait.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;

// Where a futex can wait for one word only, how often somebody who waits for another thread's slot
// looks.
constexpr std::chrono::milliseconds kSlotLook{2};

}  // namespace

Result<std::shared_ptr<RingChannel>> RingChannel::open(std::uint64_t id,
                                                       std::uint64_t worker_incarnation,
                                                       std::span<ProcessFd> fds,
                                                       std::weak_ptr<ControlConnection> connection,
                                                       std::chrono::microseconds spin) {
  Result<SharedMap> region_a = SharedMap::map(fds[0].get(), kPageBytes, MapAccess::kReadWrite);
  if (!region_a) return error(region_a.error());
  Result<SharedMap> region_b = SharedMap::map(fds[1].get(), kPageBytes, MapAccess::kReadOnly);
  if (!region_b) return error(region_b.error());
  const auto& page = *reinterpret_cast<const WorkerPage*>(region_b->data());
  if (page.magic != kWorkerPageMagic || page.protocol_major != kProtocolMajor ||
      page.worker_incarnation != worker_incarnation) {
    return error(StatusCode::kInternal, "the channel's page is not one of protocol " +
                                            std::to_string(kProtocolMajor) + " and worker " +
                                            std::to_string(worker_incarnation));
  }
  return std::shared_ptr<RingChannel>(new RingChannel(id, std::move(*region_a),
                                                      std::move(*region_b), std::move(fds[2]),
                                                      std::move(connection), spin));
}

RingChannel::RingChannel(std::uint64_t id, SharedMap region_a, SharedMap region_b, ProcessFd socket,
                         std::weak_ptr<ControlConnection> connection,
                         std::chrono::microseconds spin)
    : Channel(id, std::move(connection), spin),
      region_a_(std::move(region_a)),
      region_b_(std::move(region_b)),
      socket_(std::move(socket)),
      client_page_(*reinterpret_cast<ClientPage*>(region_a_.data())),
      worker_page_(*reinterpret_cast<const WorkerPage*>(region_b_.data())) {}

bool RingChannel::peer_closed() const {
  return worker_page_.closed.load(std::memory_order_acquire) != 0;
}

bool RingChannel::peer_sleeps() const {
  return worker_page_.need_wakeup.load(std::memory_order_relaxed) !=
         static_cast<std::uint32_t>(Wakeup::kNone);
}

bool RingChannel::shares_cpu_with_peer() const {
  return worker_page_.cpu.load(std::memory_order_relaxed) == current_cpu_mark();
}

void RingChannel::push_locked(InFlight& request) {
  SubmissionEntry entry{};
  entry.user_data = request.user_data();
  entry.session_handle = request.session_handle;
  entry.deadline_ns = deadline_ns(request);
  entry.slot = request.slot;
  entry.plan_id = request.plan ? request.plan->id : 0;
  entry.tensor_count = static_cast<std::uint16_t>(request.inputs.size());
  entry.kind =
      static_cast<std::uint8_t>(request.plan ? SubmissionKind::kPadded : SubmissionKind::kRaw);
  entry.priority = request.priority;
  client_page_.cpu.store(current_cpu_mark(), std::memory_order_relaxed);
  static_cast<RingLane*>(request.lane)->push(entry);
}

void RingChannel::notify_peer() {
  // C1: pairs with the worker's W1. Either its look, after it said that it sleeps, sees our tail,
  // or we see here that it sleeps.
  full_fence();
  const auto wakeup = static_cast<Wakeup>(worker_page_.need_wakeup.load(std::memory_order_relaxed));
  if (wakeup == Wakeup::kNone) return;
  client_page_.doorbell.fetch_add(1, std::memory_order_release);
  if (wakeup == Wakeup::kSocket) {
    const char look = 0;
    // A full socket has bytes in it that say the same.
    ::send(socket_.get(), &look, sizeof(look), MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    futex_wake(client_page_.doorbell, INT_MAX);
  }
}

void RingChannel::collect_locked() {
  for (Lane* lane : lanes_) {
    if (is_closed()) return;
    if (lane->closed) continue;
    const bool possible = static_cast<RingLane*>(lane)->collect([&](const CompletionEntry& entry) {
      const bool is_of_its_slot = entry.slot == static_cast<std::uint32_t>(entry.user_data);
      if (is_of_its_slot) {
        return complete_locked(*lane, entry, lane->layout().output_slot_bytes);
      }
      close_locked(Status(StatusCode::kInternal,
                          "model '" + lane->model().name +
                              "': the worker's answer is damaged: it names slot " +
                              std::to_string(entry.slot) + " for a request of slot " +
                              std::to_string(static_cast<std::uint32_t>(entry.user_data))),
                   Ending::kAsStated);
      return false;
    });
    if (!possible) {
      close_locked(Status(StatusCode::kInternal,
                          "model '" + lane->model().name +
                              "': the worker's answer is damaged: it announces more answers than "
                              "there are slots"),
                   Ending::kAsStated);
    }
  }
}

void RingChannel::arm_locked() {
  seen_interrupt_ = interrupt_.load(std::memory_order_acquire);
  seen_signal_ = worker_page_.signal.load(std::memory_order_acquire);
  if (by_socket_.load(std::memory_order_relaxed)) return;
  client_page_.waiting.store(static_cast<std::uint32_t>(Wakeup::kFutex), std::memory_order_relaxed);
  // Pairs with the worker's fence between its completion_tail and its look at `waiting`.
  full_fence();
}

void RingChannel::disarm_locked() {
  if (by_socket_.load(std::memory_order_relaxed)) return;
  client_page_.waiting.store(static_cast<std::uint32_t>(Wakeup::kNone), std::memory_order_relaxed);
}

void RingChannel::sleep(Clock::time_point until, bool interruptible) {
  if (by_socket_.load(std::memory_order_acquire)) return sleep_in_poll(until);
  if (has_futex_wait_any()) {
    const std::array words{FutexWord{&worker_page_.signal, seen_signal_},
                           FutexWord{&interrupt_, seen_interrupt_}};
    futex_wait_any(words, until);
  } else if (!interruptible) {
    futex_wait(worker_page_.signal, seen_signal_, until);
  } else {
    futex_wait(worker_page_.signal, seen_signal_, std::min(until, Clock::now() + kSlotLook));
  }
}

void RingChannel::sleep_in_poll(Clock::time_point until) {
  std::array<pollfd, 3> fds{pollfd{socket_ended_ ? -1 : socket_.get(), POLLIN, 0},
                            pollfd{interrupt_event_.get(), POLLIN, 0},
                            pollfd{control_fd(), POLLIN, 0}};
  poll_until(fds, until);
  if (fds[1].revents != 0) drain_event(interrupt_event_.get());
  if (fds[0].revents != 0) {
    if (!take_bytes()) socket_ended_ = true;
    // They may have been meant for the event loop as well.
    const std::lock_guard lock(mutex_);
    poll_set_->raise();
  }
  if (fds[2].revents != 0) look_at_control();
}

void RingChannel::interrupt() {
  interrupt_.fetch_add(1, std::memory_order_release);
  if (by_socket_.load(std::memory_order_relaxed)) {
    raise_event(interrupt_event_.get());
  } else {
    futex_wake(interrupt_, INT_MAX);
  }
}

void RingChannel::enable_poll(std::shared_ptr<PollSet> poll_set) {
  const std::lock_guard lock(mutex_);
  if (poll_set_ != nullptr) return;
  poll_set_ = std::move(poll_set);
  if (is_closed()) return;
  {
    const ForkLock fork_lock;
    interrupt_event_ = ProcessFd(fork_lock, make_event());
  }
  poll_set_->add(socket_.get(), EPOLLIN);
  by_socket_.store(true, std::memory_order_release);
  client_page_.waiting.store(static_cast<std::uint32_t>(Wakeup::kSocket),
                             std::memory_order_relaxed);
  full_fence();  // as in arm_locked()
  collect_locked();
  poll_set_->raise();
  // A leader that sleeps on the futex changes over.
  futex_wake(worker_page_.signal, INT_MAX);
}

void RingChannel::dispatch() {
  const bool connected = take_bytes();
  const std::lock_guard lock(mutex_);
  if (is_closed()) return;
  // A descriptor at its end would keep the set readable; the control connection says the rest.
  if (!connected && poll_set_ != nullptr) poll_set_->remove(socket_.get());
  collect_locked();
}

void RingChannel::closed_locked() {
  if (poll_set_ != nullptr) poll_set_->remove(socket_.get());
}

bool RingChannel::take_bytes() {
  std::array<char, 64> bytes;
  while (true) {
    const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got > 0) continue;
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  }
}

Result<std::shared_ptr<RingLane>> RingLane::open(LaneTerms terms, std::span<ProcessFd> fds,
                                                 std::shared_ptr<Channel> channel,
                                                 std::shared_ptr<ControlConnection> connection) {
  Result<SharedMap> region_a =
      SharedMap::map(fds[0].get(), terms.layout.region_a_bytes, MapAccess::kReadWrite);
  if (!region_a) return error(region_a.error());
  Result<SharedMap> region_b =
      SharedMap::map(fds[1].get(), terms.layout.region_b_bytes, MapAccess::kReadOnly);
  if (!region_b) return error(region_b.error());
  auto lane =
      std::make_shared<RingLane>(std::move(terms), std::move(*region_a), std::move(*region_b),
                                 std::move(channel), std::move(connection));
  lane->channel().add_lane(*lane);
  return lane;
}

RingLane::RingLane(LaneTerms terms, SharedMap region_a, SharedMap region_b,
                   std::shared_ptr<Channel> channel, std::shared_ptr<ControlConnection> connection)
    : Lane(std::move(terms), std::move(channel), std::move(connection)),
      region_a_(std::move(region_a)),
      region_b_(std::move(region_b)),
      client_(*reinterpret_cast<LaneClientHeader*>(region_a_.data())),
      worker_(*reinterpret_cast<const LaneWorkerHeader*>(region_b_.data())) {}

RingLane::~RingLane() { leave_channel(); }

std::byte* RingLane::input_slot(std::uint32_t slot) {
  return region_a_.data() + layout().input_slot_offset(slot);
}

const std::byte* RingLane::output_slot(std::uint32_t slot) const {
  return region_b_.data() + layout().output_slot_offset(slot);
}

std::chrono::nanoseconds RingLane::expected_execution(std::uint32_t bucket) const {
  if (bucket >= model().buckets.size()) return std::chrono::nanoseconds(0);
  const std::uint64_t expected = worker_.expected_ns[bucket].load(std::memory_order_relaxed);
  // Whatever stands there, sums with it do not overflow.
  constexpr std::uint64_t kMost = 3'600'000'000'000;
  return std::chrono::nanoseconds(std::min(expected, kMost));
}

bool RingLane::peer_closed() const { return worker_.closed.load(std::memory_order_acquire) != 0; }

void RingLane::push(const SubmissionEntry& entry) {
  const std::uint64_t place = submission_tail_ & (layout().slot_count - 1);
  std::memcpy(region_a_.data() + layout().submission_ring_offset + place * sizeof(entry), &entry,
              sizeof(entry));
  // Publishes the entry and the slot; pairs with the worker's acquire of submission_tail.
  client_.submission_tail.store(++submission_tail_, std::memory_order_release);
}

template <typename Complete>
bool RingLane::collect(Complete complete) {
  // Pairs with the worker's release of completion_tail.
  const std::uint64_t tail = worker_.completion_tail.load(std::memory_order_acquire);
  if (tail == completion_head_) return true;
  if (tail - completion_head_ > layout().slot_count) return false;
  while (completion_head_ != tail) {
    const std::uint64_t place = completion_head_ & (layout().slot_count - 1);
    CompletionEntry entry;
    std::memcpy(&entry, region_b_.data() + layout().completion_ring_offset + place * sizeof(entry),
                sizeof(entry));
    ++completion_head_;
    if (!complete(entry)) return true;
  }
  client_.completion_head.store(completion_head_, std::memory_order_release);
  return true;
}

}  // namespace bucketd::internal
