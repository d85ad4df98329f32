#include "daemon/worker/channel.h"

#include <sys/socket.h>

#include "common/futex.h"
#include "common/spin_budget.h"

namespace bucketd {
namespace {

// More threads than may sensibly wait for one channel; a bound on what waking a client can cost us.
constexpr int kMostSleepers = 256;

}  // namespace

Result<std::shared_ptr<RingChannel>> RingChannel::open(
    std::uint64_t id, std::uint64_t connection_id, std::uint64_t worker_incarnation,
    const UniqueFd& region_a, const UniqueFd& region_b, UniqueFd socket, GoneNotice gone) {
  for (const UniqueFd* region : {&region_a, &region_b}) {
    if (Status status = check_sealed(region->get(), kPageBytes); !status.ok()) {
      return error(status.with_context("channel " + std::to_string(id)));
    }
  }
  Result<MappedRegion> a = map_memfd(region_a.get(), kPageBytes, MapAccess::kReadOnly);
  if (!a) return error(a.error());
  Result<MappedRegion> b = map_memfd(region_b.get(), kPageBytes, MapAccess::kReadWrite);
  if (!b) return error(b.error());
  auto channel = std::make_shared<RingChannel>(id, connection_id, std::move(*a), std::move(*b),
                                               std::move(socket), std::move(gone));
  WorkerPage& page = channel->worker_page();
  page.magic = kWorkerPageMagic;
  page.protocol_major = kProtocolMajor;
  page.protocol_minor = kProtocolMinor;
  page.worker_incarnation = worker_incarnation;
  return channel;
}

void RingChannel::send_byte() {
  const char byte = 0;
  // A full buffer is as good as one more byte. The peer's end being closed is the supervisor's
  // business.
  [[maybe_unused]] const auto sent =
      ::send(socket_.get(), &byte, sizeof(byte), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void RingChannel::wake_client() {
  worker_page().cpu.store(current_cpu_mark(), std::memory_order_relaxed);
  // (W2) Pairs with (C2) of the client, which stores `waiting`, fences, and looks into the rings:
  // either it sees the completion, or this load sees that it sleeps.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint32_t waiting = client_page().waiting.load(std::memory_order_relaxed);
  if (waiting == static_cast<std::uint32_t>(Wakeup::kNone)) return;
  // Release: who sees the new value sees the completion too.
  worker_page().signal.fetch_add(1, std::memory_order_release);
  if (waiting == static_cast<std::uint32_t>(Wakeup::kFutex)) {
    futex_wake(worker_page().signal, kMostSleepers);
  } else if (waiting == static_cast<std::uint32_t>(Wakeup::kSocket)) {
    send_byte();
  }  // anything else is not in the protocol: the client sleeps as long as it likes
}

void RingChannel::wake_client_always() {
  worker_page().signal.fetch_add(1, std::memory_order_release);
  futex_wake(worker_page().signal, kMostSleepers);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // as (W2)
  if (client_page().waiting.load(std::memory_order_relaxed) ==
      static_cast<std::uint32_t>(Wakeup::kSocket)) {
    send_byte();
  }
}

}  // namespace bucketd
