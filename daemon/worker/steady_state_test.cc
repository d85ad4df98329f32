// Invariant 4: in the steady state the request path allocates nothing of its own.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "daemon/worker/request_runner.h"
#include "daemon/worker/testing/serving.h"

namespace {

// Allocations of threads that count, outside the backend.
std::atomic<std::uint64_t> g_allocations{0};
thread_local bool t_counts = false;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (t_counts) g_allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = nullptr;
  if (::posix_memalign(&memory, std::max(alignment, sizeof(void*)),
                       std::max<std::size_t>(bytes, 1)) != 0) {
    std::abort();
  }
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
// Inlined, GCC takes free() for a wrong match of the operator new that it knows.
#define NOINLINE __attribute__((noinline))
NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
NOINLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
NOINLINE void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
NOINLINE void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
NOINLINE void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace bucketd {
namespace {

using testing::pad_model;
using testing::Serving;
using testing::tensor;

// A fake model whose own allocations do not count.
class UncountedModel : public testing::FakeModel {
 public:
  using FakeModel::FakeModel;
  Result<std::unique_ptr<PreparedInputs>> run_kernel(
      std::size_t executor, std::span<const ConstTensorView> inputs) override {
    const Uncounted uncounted;
    return FakeModel::run_kernel(executor, inputs);
  }
  Result<std::unique_ptr<PreparedInputs>> wrap(std::size_t executor, std::size_t bucket,
                                               std::span<const ConstTensorView> inputs) override {
    const Uncounted uncounted;
    return FakeModel::wrap(executor, bucket, inputs);
  }
  Status execute(std::size_t executor, PreparedInputs& inputs, BoundStates* states,
                 std::span<const TensorView> outputs, StateTraffic& traffic) override {
    const Uncounted uncounted;
    return FakeModel::execute(executor, inputs, states, outputs, traffic);
  }

 private:
  struct Uncounted {
    const bool before = std::exchange(t_counts, false);
    ~Uncounted() { t_counts = before; }
  };
};

TEST(SteadyState, allocates_nothing_for_raw_padded_and_unplanned_requests) {
  // Runs the executor's loop on this thread, so that it alone is counted.
  const EventFd control = std::move(*EventFd::make());
  const UniqueFd page = std::move(*create_memfd("test-status", kWorkerStatusBytes));
  const StatusPage status = std::move(*StatusPage::open(page));
  const auto scheduler = std::move(*Scheduler::make({}, control, status, [](auto, const auto&) {}));
  RequestRunner runner(0, status);
  ModelDescription unplanned = pad_model("unplanned", {8, 16});
  unplanned.kernel = KernelKind::kTorchScript;
  for (const ModelDescription& description : {pad_model("planned", {8, 16}), unplanned}) {
    const auto model =
        std::make_shared<LoadedModel>(1, std::make_unique<UncountedModel>(description));
    testing::RingClient client;
    testing::RingClientLane lane(client, 4, 4096, 4096);
    const std::uint64_t channel_id = description.kernel == KernelKind::kPad ? 1 : 2;
    const auto channel =
        std::move(*RingChannel::open(channel_id, 1, 1, client.region_a, client.region_b,
                                     std::move(client.worker_socket), GoneNotice()));
    scheduler->add_ring_channel(channel);
    ASSERT_TRUE(scheduler->add_lane(std::move(*RingLane::open(
        channel, 1, model, lane.layout, lane.region_a, lane.region_b, 16, GoneNotice()))));
    for (int round = 0; round < 20; ++round) {
      for (const std::int64_t size : {3, 8, 9}) {
        const auto input = tensor<std::int64_t>(
            {1, size}, std::vector<std::int64_t>(static_cast<std::size_t>(size)));
        lane.submit(0, 1, input);
        lane.submit(1, 2, input);
        const std::uint64_t before = g_allocations.load();
        t_counts = true;
        for (int i = 0; i < 2; ++i) {
          Job job;
          scheduler->next(job);
          runner.run(job);
          scheduler->finish(job);
        }
        t_counts = false;
        if (round == 0 && description.kernel == KernelKind::kPad) {
          EXPECT_GT(g_allocations.load() - before, 0u) << "they are not counted";
        } else if (round >= 2) {
          EXPECT_EQ(g_allocations.load() - before, 0u)
              << description.name << ", round " << round << ", size " << size;
        }
        for (int i = 0; i < 2; ++i) {
          const std::optional<testing::TestAnswer> answer = lane.poll();
          ASSERT_TRUE(answer.has_value());
          ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
          if (!answer->plan) continue;
          // The next one padded.
          SubmissionEntry entry{};
          entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
          entry.plan_id = answer->plan->plan_id;
          testing::TestTensor padded = input;
          padded.bytes.resize(static_cast<std::size_t>(answer->plan_inputs[0].padded_dims[1]) * 8);
          lane.submit(2, 3, padded, entry);
          const std::uint64_t before_padded = g_allocations.load();
          t_counts = true;
          Job job;
          scheduler->next(job);
          runner.run(job);
          scheduler->finish(job);
          t_counts = false;
          if (round >= 2) {
            EXPECT_EQ(g_allocations.load() - before_padded, 0u) << "padded, round " << round;
          }
          ASSERT_EQ(lane.poll()->status(), StatusCode::kOk);
          break;
        }
        while (lane.poll()) {
        }
      }
    }
  }
}

}  // namespace
}  // namespace bucketd
