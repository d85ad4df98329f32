#include "tools/bench/syscall_tracer.h"

#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGTRAP with ptrace
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "common/system_error.h"
#include "tools/bench/syscall_marker.h"

namespace bucketd {
namespace {

// Stopped at a system call, with PTRACE_O_TRACESYSGOOD.
constexpr int kSyscallStop = SIGTRAP | 0x80;

std::string call_name(std::uint64_t number) {
  switch (number) {
    case SYS_futex:
      return "futex";
    case SYS_futex_waitv:
      return "futex_waitv";
    case SYS_recvmsg:
      return "recvmsg";
    case SYS_recvfrom:
      return "recvfrom";
    case SYS_sendto:
      return "sendto";
    case SYS_poll:
      return "poll";
    case SYS_epoll_wait:
      return "epoll_wait";
    case SYS_read:
      return "read";
    case SYS_write:
      return "write";
    case SYS_mmap:
      return "mmap";
    case SYS_munmap:
      return "munmap";
    case SYS_brk:
      return "brk";
    case SYS_madvise:
      return "madvise";
    case SYS_clock_nanosleep:
      return "clock_nanosleep";
    case SYS_sched_yield:
      return "sched_yield";
    default:
      return "call " + std::to_string(number);
  }
}

void resume(pid_t thread, int signal = 0) {
  ::ptrace(PTRACE_SYSCALL, thread, nullptr,
           reinterpret_cast<void*>(static_cast<std::uintptr_t>(signal)));
}

}  // namespace

std::vector<pid_t> threads_named(pid_t process, const std::string& prefix) {
  std::vector<pid_t> threads;
  std::error_code problem;
  const std::filesystem::path tasks = "/proc/" + std::to_string(process) + "/task";
  for (const auto& entry : std::filesystem::directory_iterator(tasks, problem)) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    if (name.starts_with(prefix)) threads.push_back(std::stoi(entry.path().filename()));
  }
  return threads;
}

void SyscallTracer::detach() {
  for (const pid_t thread : attached_) {
    ::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr);
    int status = 0;
    if (::waitpid(thread, &status, __WALL) != thread || !WIFSTOPPED(status)) continue;
    ::ptrace(PTRACE_DETACH, thread, nullptr, nullptr);
  }
  attached_.clear();
}

Status SyscallTracer::attach(pid_t thread) {
  if (::ptrace(PTRACE_SEIZE, thread, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
    return {StatusCode::kFailedPrecondition,
            "the kernel does not let this process count system calls of another: " +
                status_from_errno("ptrace", errno).message()};
  }
  attached_.push_back(thread);
  counts_[thread];
  ::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr);
  int status = 0;
  ::waitpid(thread, &status, __WALL);
  resume(thread);
  return {};
}

Status SyscallTracer::count_between_markers(pid_t marking) {
  for (auto& [thread, counts] : counts_) counts.clear();
  int markers = 0;
  while (markers < 2) {
    int status = 0;
    const pid_t thread = ::waitpid(-1, &status, __WALL);
    if (thread < 0) return status_from_errno("wait for a traced thread", errno);
    const auto counts = counts_.find(thread);
    if (counts == counts_.end()) continue;  // a child that nobody traces
    if (!WIFSTOPPED(status)) {
      std::erase(attached_, thread);
      return {StatusCode::kInternal, "a traced thread ended"};
    }
    int signal = 0;
    if (WSTOPSIG(status) == kSyscallStop) {
      __ptrace_syscall_info info{};
      ::ptrace(PTRACE_GET_SYSCALL_INFO, thread, reinterpret_cast<void*>(sizeof(info)), &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        if (thread == marking && info.entry.nr == kMarkerCall) {
          ++markers;
        } else if (markers == 1) {
          ++counts->second[info.entry.nr];
        }
      }
    } else if ((status >> 16) == 0 && WSTOPSIG(status) != SIGTRAP) {
      signal = WSTOPSIG(status);  // on its way to the thread
    }
    resume(thread, signal);
  }
  return {};
}

std::uint64_t SyscallTracer::calls(pid_t thread) const {
  std::uint64_t sum = 0;
  for (const auto& [number, count] : counts_.at(thread)) sum += count;
  return sum;
}

std::string SyscallTracer::calls_text(pid_t thread) const {
  std::string text;
  for (const auto& [number, count] : counts_.at(thread)) {
    text += (text.empty() ? "" : ", ") + call_name(number) + " " + std::to_string(count);
  }
  return text.empty() ? "none" : text;
}

}  // namespace bucketd
