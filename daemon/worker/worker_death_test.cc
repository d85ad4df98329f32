// What a worker that dies leaves behind for the supervisor, who decides by it whom to charge.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "common/memfd.h"
#include "daemon/worker/testing/serving.h"
#include "daemon/worker/testing/supervisor_end.h"

namespace bucketd {
namespace {

using testing::Gate;
using testing::pad_model;
using testing::RingClient;
using testing::RingClientLane;
using testing::SupervisorEnd;
using testing::tensor;

constexpr std::uint32_t kInnocent = 5;
constexpr std::uint32_t kCulprit = 6;

// Writes where no one may. (No null pointer, which a sanitizer would forestall.)
void write_wildly() {
  void* const forbidden = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile int*>(forbidden) = 1;
}

class WorkerDeathTest : public ::testing::Test {
 protected:
  WorkerDeathTest()
      : page_fd_(std::move(*create_memfd("test-status", kWorkerStatusBytes))),
        page_(std::move(*map_memfd(page_fd_.get(), kWorkerStatusBytes, MapAccess::kReadOnly))) {}

  // In the child: a worker with three executors, two of which run an innocent model when `die` runs
  // on the third.
  template <typename Die>
  void serve_until_death(Die die) {
    Gate gate;
    SupervisorEnd worker(
        [&](const std::string& name) -> Result<std::unique_ptr<BucketModel>> {
          return std::make_unique<testing::FakeModel>(pad_model(name, {4}), [&, name](const auto&) {
            if (name == "culprit") die();
            gate.pass();
            return Status();
          });
        },
        {.installs_fault_handler = true, .status_page = UniqueFd(::dup(page_fd_.get()))});
    worker.configure(3);
    EXPECT_EQ(worker.load_model(kInnocent, "innocent").type(), link::Body::ModelLoaded);
    EXPECT_EQ(worker.load_model(kCulprit, "culprit").type(), link::Body::ModelLoaded);
    RingClient innocent;
    RingClientLane innocent_lane(innocent, 4, 4096, 4096);
    worker.open_lane(11, innocent, innocent_lane, kInnocent);
    RingClient culprit;
    RingClientLane culprit_lane(culprit, 4, 4096, 4096);
    worker.open_lane(12, culprit, culprit_lane, kCulprit);
    const auto input = tensor<std::int64_t>({1, 2}, {1, 2});
    innocent_lane.submit(0, 1, input);
    innocent_lane.submit(1, 2, input);
    if (!gate.wait_for_visitors(2)) std::_Exit(1);
    culprit_lane.submit(0, 3, input);
    [[maybe_unused]] const auto answer = culprit_lane.wait();
    std::_Exit(1);
  }

  // In the child: a worker whose model dies of writing initial values to session 7: when that is
  // bound, or when it is reset.
  void initialise_until_death(bool initialises_at_once) {
    SupervisorEnd worker(
        [](const std::string& name) -> Result<std::unique_ptr<BucketModel>> {
          ModelDescription model = pad_model(name, {4});
          model.states = {{"cache", DType::kUint8, Shape{16}, std::nullopt}};
          model.buckets[0].states = {Shape{16}};
          return std::make_unique<testing::FakeModel>(model, nullptr, []() -> Status { abort(); });
        },
        {.installs_fault_handler = true, .status_page = UniqueFd(::dup(page_fd_.get()))});
    worker.configure(1);
    EXPECT_EQ(worker.load_model(kCulprit, "culprit").type(), link::Body::ModelLoaded);
    const UniqueFd arena = std::move(*create_memfd("test-arena", 4096));
    worker.map_arena(1, arena, 4096);
    worker.bind({.connection_id = 11,
                 .handle = 7,
                 .model_id = kCulprit,
                 .arena_id = 1,
                 .arena_bytes = 4096,
                 .offsets = {0},
                 .initialise = initialises_at_once});
    worker.answer_to(worker.send([](flatbuffers::FlatBufferBuilder& builder) {
      return link::CreateOperateSession(builder, 11, 7, link::StateOperation::kReset);
    }));
    std::_Exit(1);
  }

  const ExecutorStatus& first_executor() const {
    return static_cast<const WorkerStatus*>(page_.get_address())->executors[0];
  }

  void expect_only_the_culprit_is_named() {
    const auto& status = *static_cast<const WorkerStatus*>(page_.get_address());
    std::size_t executing = 0;
    for (const ExecutorStatus& executor : status.executors) {
      executing += executor.state.load() == static_cast<std::uint32_t>(ExecutorState::kExecuting);
    }
    EXPECT_EQ(executing, 3u);
    const std::uint32_t faulting = status.faulting_executor.load();
    ASSERT_NE(faulting, 0u) << "everybody who was executing would be charged";
    ASSERT_LE(faulting, 3u);
    EXPECT_EQ(status.executors[faulting - 1].model_id.load(), kCulprit);
    EXPECT_EQ(status.executors[faulting - 1].channel_id.load(), 12u);
  }

 private:
  const UniqueFd page_fd_;
  const MappedRegion page_;
};

TEST_F(WorkerDeathTest, names_the_culprit_of_an_abort_among_several_that_execute) {
  EXPECT_DEATH(serve_until_death([] { std::abort(); }), "");
  expect_only_the_culprit_is_named();
}

TEST_F(WorkerDeathTest, names_the_culprit_of_a_wild_write_among_several_that_execute) {
  EXPECT_DEATH(serve_until_death(write_wildly), "");
  expect_only_the_culprit_is_named();
}

TEST_F(WorkerDeathTest, names_the_session_that_was_being_reset) {
  EXPECT_DEATH(initialise_until_death(false), "");
  EXPECT_EQ(first_executor().state.load(), static_cast<std::uint32_t>(ExecutorState::kExecuting));
  EXPECT_EQ(first_executor().session_handle.load(), 7u);
  EXPECT_EQ(first_executor().model_id.load(), kCulprit);
  EXPECT_EQ(first_executor().channel_id.load(), 0u);
  EXPECT_EQ(first_executor().kind.load(), static_cast<std::uint32_t>(ExecutionKind::kChange));
}

TEST_F(WorkerDeathTest, names_the_session_that_was_being_bound) {
  EXPECT_DEATH(initialise_until_death(true), "");
  EXPECT_EQ(first_executor().state.load(), static_cast<std::uint32_t>(ExecutorState::kExecuting));
  EXPECT_EQ(first_executor().session_handle.load(), 7u);
  EXPECT_EQ(first_executor().model_id.load(), kCulprit);
  EXPECT_EQ(first_executor().kind.load(), static_cast<std::uint32_t>(ExecutionKind::kBind));
}

}  // namespace
}  // namespace bucketd
