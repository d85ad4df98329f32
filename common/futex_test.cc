#include "common/futex.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "common/memfd.h"

namespace bucketd {
namespace {

using std::chrono::steady_clock;

TEST(FutexTest, a_changed_word_is_not_waited_for) {
  std::atomic<std::uint32_t> word{2};
  EXPECT_EQ(futex_wait(word, 1, std::nullopt), FutexWait::kWoken);
}

TEST(FutexTest, a_passed_deadline_times_out) {
  std::atomic<std::uint32_t> word{1};
  EXPECT_EQ(futex_wait(word, 1, steady_clock::now()), FutexWait::kTimedOut);
}

TEST(FutexTest, a_sleeper_on_a_read_only_map_is_woken_through_the_writable_one) {
  const Result<UniqueFd> fd = create_memfd("test", 4096);
  ASSERT_TRUE(fd);
  const Result<MappedRegion> writable = map_memfd(fd->get(), 4096, MapAccess::kReadWrite);
  const Result<MappedRegion> readable = map_memfd(fd->get(), 4096, MapAccess::kReadOnly);
  ASSERT_TRUE(writable && readable);
  auto& written = *static_cast<std::atomic<std::uint32_t>*>(writable->get_address());
  const auto& watched = *static_cast<const std::atomic<std::uint32_t>*>(readable->get_address());
  std::thread sleeper([&] {
    while (watched.load() == 0) futex_wait(watched, 0, std::nullopt);
  });
  written.store(1);
  futex_wake(written, 1);
  sleeper.join();
}

TEST(FutexTest, waiting_on_many_words_ends_when_any_one_is_woken) {
  ASSERT_TRUE(has_futex_wait_any()) << "the kernel is older than 5.16";
  std::vector<std::atomic<std::uint32_t>> words(kMaxFutexWords);
  std::vector<FutexWord> waits;
  for (const std::atomic<std::uint32_t>& word : words) waits.push_back({&word, 0});
  std::thread sleeper([&] {
    while (words.back().load() == 0) futex_wait_any(waits, std::nullopt);
  });
  words.back().store(1);
  futex_wake(words.back(), 1);
  sleeper.join();
  EXPECT_EQ(futex_wait_any(waits, std::nullopt), FutexWait::kWoken) << "a word differs already";
  words.back().store(0);
  EXPECT_EQ(futex_wait_any(waits, steady_clock::now()), FutexWait::kTimedOut);
}

}  // namespace
}  // namespace bucketd
