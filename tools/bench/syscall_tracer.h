// SyscallTracer: counts the system calls of threads from outside, exactly, by ptrace. A thread that
// makes none is not slowed down.
//
// Thread safety: one thread, the same for all methods: ptrace knows its tracer by thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bucketd/status.h"

namespace bucketd {

// Threads of `process` whose name begins with `prefix`.
std::vector<pid_t> threads_named(pid_t process, const std::string& prefix);

class SyscallTracer {
 public:
  SyscallTracer() = default;
  ~SyscallTracer() { detach(); }
  SyscallTracer(const SyscallTracer&) = delete;
  SyscallTracer& operator=(const SyscallTracer&) = delete;

  // From now on its calls are seen. Errors: FAILED_PRECONDITION when the kernel does not allow it.
  Status attach(pid_t thread);

  // Runs the threads until `marking` makes its second marker call (syscall_marker.h). Counts what
  // every thread calls between the two, markers not included.
  // Errors: INTERNAL when a thread ends meanwhile.
  Status count_between_markers(pid_t marking);

  // Lets all threads go; what was counted stays.
  void detach();

  // Of the last count.
  std::uint64_t calls(pid_t thread) const;
  // The same by number: "futex 3, recvmsg 1".
  std::string calls_text(pid_t thread) const;

 private:
  std::vector<pid_t> attached_;
  std::map<pid_t, std::map<std::uint64_t, std::uint64_t>> counts_;  // by thread, then call
};

}  // namespace bucketd
