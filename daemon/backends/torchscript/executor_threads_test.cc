// How many threads LibTorch and its BLAS take. A program of its own: the pools are the process's.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <thread>
#include <vector>

#include "daemon/backends/torchscript/testing/loaded_model.h"

namespace bucketd::torchscript {
namespace {

using testing::LoadedModel;
using testing::make_backend;
using testing::Tensor;

std::ptrdiff_t thread_count() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

TEST(ExecutorThreads, one_thread_per_core_means_no_thread_but_the_executors) {
  BackendOptions options;
  options.core_count = 2;
  options.threads_per_core = 1;
  const auto backend = make_backend(options);
  LoadedModel model(*backend, "product");
  ASSERT_TRUE(model);
  const std::ptrdiff_t before = thread_count();
  std::ptrdiff_t during = 0;
  for (std::size_t executor = 0; executor < 2; ++executor) {
    std::thread([&] {
      backend->prepare_executor_thread(executor);
      for (int round = 0; round < 3; ++round) {
        std::vector<Tensor> inputs;
        inputs.push_back(Tensor::of<float>({512, 512}, std::vector<float>(512 * 512, 1)));
        ASSERT_TRUE(model.run(std::move(inputs)).has_value());
      }
      during = std::max(during, thread_count());
    }).join();
  }
  EXPECT_EQ(during, before + 1) << "a thread besides the executor's own was made";
}

}  // namespace
}  // namespace bucketd::torchscript
