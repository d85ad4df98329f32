#include "tools/bench/syscall_tracer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>

#include "tools/bench/syscall_marker.h"

namespace bucketd {
namespace {

// A child that waits for a byte, and then calls the kernel as often as it is told between markers.
class CallingChild {
 public:
  explicit CallingChild(int calls) {
    if (::pipe(start_) != 0) return;
    pid_ = ::fork();
    if (pid_ != 0) return;
    char byte = 0;
    [[maybe_unused]] const ssize_t got = ::read(start_[0], &byte, 1);
    ::syscall(SYS_gettid);
    mark_for_tracer();
    for (int i = 0; i < calls; ++i) ::syscall(SYS_sched_yield);
    mark_for_tracer();
    ::syscall(SYS_gettid);
    ::_exit(0);
  }
  ~CallingChild() {
    ::close(start_[0]);
    ::close(start_[1]);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  }
  void go() const {
    const char byte = 0;
    ASSERT_EQ(::write(start_[1], &byte, 1), 1);
  }
  pid_t pid() const { return pid_; }

 private:
  int start_[2] = {-1, -1};
  pid_t pid_ = -1;
};

void expect_counted(int calls) {
  const CallingChild child(calls);
  ASSERT_GT(child.pid(), 0);
  SyscallTracer tracer;
  const Status attached = tracer.attach(child.pid());
  child.go();
  if (!attached.ok()) GTEST_SKIP() << attached.to_string();
  const Status counted = tracer.count_between_markers(child.pid());
  ASSERT_TRUE(counted.ok()) << counted.to_string();
  tracer.detach();
  EXPECT_EQ(tracer.calls(child.pid()), static_cast<std::uint64_t>(calls));
}

TEST(SyscallTracer, counts_exactly_what_is_between_the_markers) { expect_counted(137); }

TEST(SyscallTracer, counts_nothing_where_there_is_nothing) { expect_counted(0); }

TEST(SyscallTracer, finds_threads_by_name) {
  EXPECT_THAT(threads_named(::getpid(), "bench_"), testing::Contains(::getpid()));
  EXPECT_TRUE(threads_named(::getpid(), "no such thread").empty());
}

}  // namespace
}  // namespace bucketd
