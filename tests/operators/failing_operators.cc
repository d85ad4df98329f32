// TorchScript operators that fail in ways that no exception handler catches, for tests of what a
// worker's death or hang does to everybody else. Never installed.
//
// Each takes a tensor and gives it back, unless the tensor's first element is the trigger:
//   bucketd_test::abort(Tensor x, int trigger) -> Tensor             abort()
//   bucketd_test::null_dereference(Tensor x, int trigger) -> Tensor  writes to address 0
//   bucketd_test::hang(Tensor x, int trigger) -> Tensor              never returns, sleeping
//   bucketd_test::spin(Tensor x, int trigger) -> Tensor              never returns, on the CPU
//   bucketd_test::exit(Tensor x, int trigger) -> Tensor              _exit(3)
//   bucketd_test::throw_error(Tensor x, int trigger) -> Tensor       raises an exception
//   bucketd_test::crash_if(Tensor x, int trigger, str how) -> Tensor any of these, by name
// And without a tensor, for __setstate__: bucketd_test::crash(int number, str how) -> int.
#include <signal.h>
#include <torch/library.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace {

[[gnu::noinline]] void write_to(volatile int* address) { *address = 1; }

void fail(const std::string& how) {
  if (how == "abort") {
    std::abort();
  } else if (how == "null_dereference") {
    // volatile, or the compiler would see the null and put a trap instruction here.
    volatile std::uintptr_t zero = 0;
    write_to(reinterpret_cast<volatile int*>(zero));
  } else if (how == "hang") {
    for (;;) ::pause();
  } else if (how == "spin") {
    // Atomic, or the compiler may take a loop without effects for one that ends.
    for (std::atomic<std::uint64_t> turns = 0;;) turns.fetch_add(1, std::memory_order_relaxed);
  } else if (how == "exit") {
    ::_exit(3);
  } else if (how == "throw_error") {
    throw std::runtime_error("bucketd_test::throw_error was asked to raise");
  }
  throw std::invalid_argument("bucketd_test knows no way to fail called '" + how + "'");
}

at::Tensor crash_if(const at::Tensor& x, std::int64_t trigger, const std::string& how) {
  if (x.numel() > 0 && x.reshape({-1})[0].item().toDouble() == static_cast<double>(trigger)) {
    fail(how);
  }
  // A schema without alias annotations promises a tensor of its own.
  return x.clone();
}

std::int64_t crash(std::int64_t /*number*/, const std::string& how) {
  fail(how);
  return 0;
}

}  // namespace

TORCH_LIBRARY(bucketd_test, library) {
  library.def("crash_if(Tensor x, int trigger, str how) -> Tensor", crash_if);
  library.def("crash(int number, str how) -> int", crash);
  library.def(
      "abort(Tensor x, int trigger) -> Tensor",
      [](const at::Tensor& x, std::int64_t trigger) { return crash_if(x, trigger, "abort"); });
  library.def("null_dereference(Tensor x, int trigger) -> Tensor",
              [](const at::Tensor& x, std::int64_t trigger) {
                return crash_if(x, trigger, "null_dereference");
              });
  library.def(
      "hang(Tensor x, int trigger) -> Tensor",
      [](const at::Tensor& x, std::int64_t trigger) { return crash_if(x, trigger, "hang"); });
  library.def(
      "spin(Tensor x, int trigger) -> Tensor",
      [](const at::Tensor& x, std::int64_t trigger) { return crash_if(x, trigger, "spin"); });
  library.def(
      "exit(Tensor x, int trigger) -> Tensor",
      [](const at::Tensor& x, std::int64_t trigger) { return crash_if(x, trigger, "exit"); });
  library.def("throw_error(Tensor x, int trigger) -> Tensor",
              [](const at::Tensor& x, std::int64_t trigger) {
                return crash_if(x, trigger, "throw_error");
              });
}
