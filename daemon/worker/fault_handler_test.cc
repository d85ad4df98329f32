#include "daemon/worker/fault_handler.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "common/memfd.h"

namespace bucketd {
namespace {

// Faults on purpose, in a child process that shares the status page.
class FaultHandlerDeathTest : public ::testing::Test {
 protected:
  FaultHandlerDeathTest()
      : fd(std::move(*create_memfd("test-status", kWorkerStatusBytes))),
        map(std::move(*map_memfd(fd.get(), kWorkerStatusBytes, MapAccess::kReadWrite))) {}
  WorkerStatus& status() { return *static_cast<WorkerStatus*>(map.get_address()); }

  template <typename Fault>
  void fault_on_executor(std::size_t executor, Fault fault) {
    install_fault_handler(status());
    std::thread([&] {
      const ExecutorThreadMark mark(executor);
      fault();
    }).join();
  }

  const UniqueFd fd;
  const MappedRegion map;
};

TEST_F(FaultHandlerDeathTest, names_the_executor_that_aborts) {
  EXPECT_DEATH(fault_on_executor(5, [] { std::abort(); }), "");
  EXPECT_EQ(status().faulting_executor.load(), 6u);
}

TEST_F(FaultHandlerDeathTest, names_the_executor_that_divides_by_zero) {
  EXPECT_DEATH(fault_on_executor(0, [] { std::raise(SIGFPE); }), "");
  EXPECT_EQ(status().faulting_executor.load(), 1u);
}

// Writes where no one may. (No null pointer, which a sanitizer would forestall.)
void write_wildly() {
  void* const forbidden = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile int*>(forbidden) = 1;
}

TEST_F(FaultHandlerDeathTest, names_the_executor_that_writes_wildly) {
  EXPECT_DEATH(fault_on_executor(2, write_wildly), "");
  EXPECT_EQ(status().faulting_executor.load(), 3u);
}

// Deeper than any stack; the frames are used after the call, so that it is no loop.
__attribute__((noinline)) int descend(int depth) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? 0 : descend(depth - 1) + frame[0];
}

TEST_F(FaultHandlerDeathTest, names_the_executor_whose_stack_overflows) {
  EXPECT_DEATH(fault_on_executor(7, [] { descend(1 << 30); }), "");
  EXPECT_EQ(status().faulting_executor.load(), 8u);
}

TEST_F(FaultHandlerDeathTest, names_nobody_when_another_thread_faults) {
  EXPECT_DEATH(
      {
        install_fault_handler(status());
        std::abort();
      },
      "");
  EXPECT_EQ(status().faulting_executor.load(), 0u);
}

}  // namespace
}  // namespace bucketd
