#include "daemon/worker/core_affinity.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <vector>

namespace bucketd {
namespace {

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(::sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

struct Bound {
  bool is_bound = false;
  std::vector<int> cpus;  // of a thread that was started after
};

// On a thread of its own, so that the test's stays as it is.
Bound bind(std::uint32_t first, std::uint32_t count, std::uint32_t threads) {
  Bound bound;
  std::thread([&] {
    bound.is_bound = bind_to_cores(first, count, threads);
    std::thread([&] { bound.cpus = usable_cpus(); }).join();
  }).join();
  return bound;
}

TEST(CoreAffinity, gives_a_range_of_cores_its_own_cpus) {
  const std::vector<int> all = usable_cpus();
  const auto count = static_cast<std::uint32_t>(all.size());
  const Bound first = bind(0, 1, 1);
  EXPECT_TRUE(first.is_bound);
  EXPECT_EQ(first.cpus, std::vector<int>{all.front()});
  const Bound last = bind(count - 1, 1, 1);
  EXPECT_TRUE(last.is_bound);
  EXPECT_EQ(last.cpus, std::vector<int>{all.back()});
  EXPECT_EQ(bind(0, count, 1).cpus, all);
}

TEST(CoreAffinity, gives_each_core_as_many_cpus_as_it_has_threads) {
  const std::vector<int> all = usable_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs, there is " << all.size();
  EXPECT_EQ(bind(0, 1, 2).cpus, std::vector<int>(all.begin(), all.begin() + 2));
}

TEST(CoreAffinity, changes_nothing_when_there_are_not_so_many) {
  const std::vector<int> all = usable_cpus();
  const auto count = static_cast<std::uint32_t>(all.size());
  for (const Bound& bound : {bind(0, count + 1, 1), bind(count, 1, 1), bind(0, count, 2),
                             bind(65535, 65535, 32767), bind(0, 0, 1)}) {
    EXPECT_FALSE(bound.is_bound);
    EXPECT_EQ(bound.cpus, all);
  }
}

TEST(CoreAffinity, counts_among_the_cpus_that_the_process_may_use) {
  const std::vector<int> all = usable_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs, there is " << all.size();
  std::thread([&] {
    ASSERT_TRUE(bind_to_cores(1, 1, 1));
    EXPECT_TRUE(bind_to_cores(0, 1, 1));
    EXPECT_EQ(usable_cpus(), std::vector<int>{all[1]});
    EXPECT_FALSE(bind_to_cores(1, 1, 1));
  }).join();
}

}  // namespace
}  // namespace bucketd
