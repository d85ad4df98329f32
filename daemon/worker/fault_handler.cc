#include "daemon/worker/fault_handler.h"

#include <signal.h>

#include <array>
#include <cstdint>

namespace bucketd {
namespace {

constexpr std::array<int, 5> kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

// Read by the handler only; written before it is installed.
WorkerStatus* g_status = nullptr;
std::array<struct sigaction, kSignals.size()> g_before;

thread_local std::uint32_t t_executor_plus_1 = 0;

void on_fault(int signal_number) {
  // Only atomics, sigaction and raise: async-signal-safe.
  if (t_executor_plus_1 != 0) {
    std::uint32_t none = 0;  // the first one is the culprit
    g_status->faulting_executor.compare_exchange_strong(none, t_executor_plus_1,
                                                        std::memory_order_release);
  }
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] == signal_number) ::sigaction(signal_number, &g_before[i], nullptr);
  }
  // Blocked until this handler returns, then delivered to whoever was there before us.
  ::raise(signal_number);
}

}  // namespace

void install_fault_handler(WorkerStatus& status) {
  g_status = &status;
  struct sigaction action {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &action, &g_before[i]);
  }
}

ExecutorThreadMark::ExecutorThreadMark(std::size_t executor) {
  t_executor_plus_1 = static_cast<std::uint32_t>(executor) + 1;
  constexpr std::size_t kStackBytes = 64 * 1024;
  stack_ = std::make_unique<std::byte[]>(kStackBytes);
  stack_t alternate{};
  alternate.ss_sp = stack_.get();
  alternate.ss_size = kStackBytes;
  ::sigaltstack(&alternate, &before_);
}

ExecutorThreadMark::~ExecutorThreadMark() {
  t_executor_plus_1 = 0;
  // What was there may belong to a sanitizer, which frees it itself.
  ::sigaltstack(&before_, nullptr);
}

}  // namespace bucketd
