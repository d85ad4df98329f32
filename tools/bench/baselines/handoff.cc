// The barest hand-off there is: two processes over a shared memfd, 64 bytes there and back.
//   --mode futex: each wakes the other and sleeps;  --mode spin: each looks until it is its turn.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "common/futex.h"
#include "common/memfd.h"
#include "tools/bench/baselines/baseline_program.h"
#include "tools/bench/cpu.h"
#include "tools/bench/turn_program.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPayloadBytes = 64;
constexpr std::uint64_t kMemoryBytes = 4096;

struct Shared {
  alignas(128) std::atomic<std::uint32_t> request;
  alignas(128) std::atomic<std::uint32_t> reply;
  // Spinning servers sleep while this is 0: between turns their CPU belongs to others.
  alignas(128) std::atomic<std::uint32_t> turn;
  alignas(64) std::byte question[kPayloadBytes];
  alignas(64) std::byte answer[kPayloadBytes];
};

void wait_for(const std::atomic<std::uint32_t>& word, std::uint32_t wanted, bool spin) {
  while (true) {
    const std::uint32_t value = word.load(std::memory_order_acquire);
    if (value == wanted) return;
    if (!spin) futex_wait(word, value, std::nullopt);
  }
}

void serve_spinning(Shared& shared) {
  std::uint32_t served = shared.reply.load(std::memory_order_relaxed);
  while (true) {
    if (shared.request.load(std::memory_order_acquire) != served) {
      std::memcpy(shared.answer, shared.question, kPayloadBytes);
      shared.reply.store(++served, std::memory_order_release);
    } else if (shared.turn.load(std::memory_order_relaxed) == 0) {
      futex_wait(shared.turn, 0, std::nullopt);
    }
  }
}

void serve_sleeping(Shared& shared) {
  for (std::uint32_t number = 1;; ++number) {
    wait_for(shared.request, number, false);
    std::memcpy(shared.answer, shared.question, kPayloadBytes);
    shared.reply.store(number, std::memory_order_release);
    futex_wake(shared.reply, 1);
  }
}

Result<TurnCaller> make_caller(const BaselineOptions& options) {
  const bool spin = options.mode == "spin";
  Result<UniqueFd> fd = create_memfd("bucketd-bench-handoff", kMemoryBytes);
  if (!fd) return error(fd.error());
  Result<MappedRegion> region = map_memfd(fd->get(), kMemoryBytes, MapAccess::kReadWrite);
  if (!region) return error(region.error());
  // Lives as long as this process.
  const auto memory = std::make_shared<MappedRegion>(std::move(*region));
  auto& shared = *static_cast<Shared*>(memory->get_address());
  Result<BaselineServer> server = BaselineServer::start(
      options, [&shared, spin] { spin ? serve_spinning(shared) : serve_sleeping(shared); });
  if (!server) return error(server.error());
  const auto kept = std::make_shared<BaselineServer>(std::move(*server));

  TurnCaller caller;
  caller.call = [memory, &shared, spin]() -> Result<nanoseconds> {
    std::byte payload[kPayloadBytes] = {};
    const Clock::time_point started = Clock::now();
    std::memcpy(shared.question, payload, kPayloadBytes);
    const std::uint32_t number = shared.request.load(std::memory_order_relaxed) + 1;
    shared.request.store(number, std::memory_order_release);
    if (!spin) futex_wake(shared.request, 1);
    wait_for(shared.reply, number, spin);
    std::memcpy(payload, shared.answer, kPayloadBytes);
    return Clock::now() - started;
  };
  caller.server_cpu = [kept] { return cpu_time_of(kept->pid()); };
  caller.begin_turn = [&shared] {
    shared.turn.store(1, std::memory_order_release);
    futex_wake(shared.turn, 1);
  };
  caller.end_turn = [&shared] { shared.turn.store(0, std::memory_order_release); };
  return caller;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  const bucketd::BaselineOptions options = bucketd::parse_baseline_options(
      argc, argv, "A bare shared-memory hand-off between two processes.");
  return bucketd::serve_turns([&options] { return bucketd::make_caller(options); });
}
