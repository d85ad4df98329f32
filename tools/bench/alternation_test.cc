#include "tools/bench/alternation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using testing::Each;
using testing::SizeIs;
using testing::StartsWith;

// Writes its letter down for each call; says that each took so many nanoseconds as its letter is.
LocalSide::Call letter(char name, std::string& calls) {
  return [name, &calls]() -> Result<nanoseconds> {
    calls += name;
    return nanoseconds(name);
  };
}

TEST(Alternate, takes_turns) {
  std::string calls;
  LocalSide a(letter('a', calls));
  LocalSide b(letter('b', calls));
  const std::array<Side*, 2> sides = {&a, &b};
  const auto measured =
      alternate(sides, {.budget = std::chrono::seconds(0), .calls_per_turn = 2, .min_rounds = 2});
  ASSERT_TRUE(measured);
  EXPECT_EQ(calls, "aabbaabbaabb");
}

TEST(Alternate, counts_neither_the_first_round_nor_a_turn_s_warm_up) {
  std::string calls;
  LocalSide a(letter('a', calls));
  LocalSide b(letter('b', calls));
  const std::array<Side*, 2> sides = {&a, &b};
  const auto measured = alternate(sides, {.budget = std::chrono::seconds(0),
                                          .calls_per_turn = 2,
                                          .warm_up_per_turn = 1,
                                          .min_rounds = 3});
  ASSERT_TRUE(measured);
  EXPECT_THAT(calls, StartsWith("aaabbbaaabbb"));
  EXPECT_THAT((*measured)[0].samples, SizeIs(6));
  EXPECT_THAT((*measured)[0].samples, Each(nanoseconds('a')));
  EXPECT_THAT((*measured)[1].samples, Each(nanoseconds('b')));
}

TEST(Alternate, ends_with_the_first_error) {
  LocalSide a([]() -> Result<nanoseconds> { return nanoseconds(1); });
  LocalSide b([]() -> Result<nanoseconds> { return error(StatusCode::kInternal, "broken"); });
  const std::array<Side*, 2> sides = {&a, &b};
  const auto measured = alternate(sides, {});
  ASSERT_FALSE(measured);
  EXPECT_EQ(measured.error().message(), "broken");
}

TEST(Alternate, charges_a_side_with_the_server_time_of_its_own_turns) {
  nanoseconds server{0};
  LocalSide a(
      [&]() -> Result<nanoseconds> {
        server += std::chrono::milliseconds(3);
        return nanoseconds(1);
      },
      [&] { return server; });
  LocalSide b([]() -> Result<nanoseconds> { return nanoseconds(1); }, [&] { return server; });
  const std::array<Side*, 2> sides = {&a, &b};
  const auto measured = alternate(sides, {.budget = std::chrono::seconds(0), .min_rounds = 4});
  ASSERT_TRUE(measured);
  EXPECT_DOUBLE_EQ((*measured)[0].cpu.server, 3.0);  // 3 ms a call, of 1000 calls
  EXPECT_DOUBLE_EQ((*measured)[1].cpu.server, 0);
}

}  // namespace
}  // namespace bucketd
