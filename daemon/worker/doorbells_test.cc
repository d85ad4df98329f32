#include "daemon/worker/doorbells.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "daemon/worker/testing/ring_client.h"

namespace bucketd {
namespace {

using std::chrono::steady_clock;
using testing::RingClient;

class DoorbellsTest : public ::testing::TestWithParam<WakeupPolicy> {
 protected:
  DoorbellsTest() : doorbells(std::move(*Doorbells::make(GetParam()))) {}

  Wakeup kind() const {
    return GetParam() == WakeupPolicy::kSocket ? Wakeup::kSocket : Wakeup::kFutex;
  }
  RingClient& connect() {
    RingClient& client = *clients.emplace_back(std::make_unique<RingClient>());
    channels.push_back(
        std::move(*RingChannel::open(channels.size() + 1, 1, 1, client.region_a, client.region_b,
                                     std::move(client.worker_socket), GoneNotice())));
    ++version;
    return client;
  }
  // Whether a sleep ended before its deadline, which nothing but a hang can reach.
  bool sleeps_until_woken() {
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    doorbells->sleep(deadline);
    return steady_clock::now() < deadline;
  }
  // Whether a sleep lasts: for an instant at least.
  bool sleeps_on() {
    const auto deadline = steady_clock::now() + std::chrono::milliseconds(5);
    doorbells->sleep(deadline);
    return steady_clock::now() >= deadline;
  }

  std::unique_ptr<Doorbells> doorbells;
  std::vector<std::unique_ptr<RingClient>> clients;
  std::vector<std::shared_ptr<RingChannel>> channels;
  std::uint64_t version = 1;  // 0 is that of no channels yet
};

TEST_P(DoorbellsTest, end_the_sleep_when_a_client_rang_after_they_were_armed) {
  connect();
  RingClient& client = connect();
  doorbells->arm(channels, version);
  EXPECT_EQ(client.ring_if_needed(), kind()) << "the page says how";
  EXPECT_TRUE(sleeps_until_woken());
  doorbells->disarm();
  EXPECT_EQ(client.ring_if_needed(), Wakeup::kNone);
}

TEST_P(DoorbellsTest, end_the_sleep_when_a_client_rings_meanwhile) {
  RingClient& client = connect();
  doorbells->arm(channels, version);
  std::thread ringer([&] { client.ring_if_needed(); });
  EXPECT_TRUE(sleeps_until_woken());
  ringer.join();
}

TEST_P(DoorbellsTest, end_the_sleep_when_they_are_woken_after_they_were_armed) {
  doorbells->arm(channels, version);
  doorbells->wake();
  EXPECT_TRUE(sleeps_until_woken());
  connect();
  doorbells->arm(channels, version);
  doorbells->wake();
  EXPECT_TRUE(sleeps_until_woken());
}

TEST_P(DoorbellsTest, keep_sleeping_when_nobody_rings) {
  connect();
  doorbells->arm(channels, version);
  EXPECT_TRUE(sleeps_on());
}

TEST_P(DoorbellsTest, do_not_hear_a_channel_that_was_taken_out) {
  RingClient& left = connect();
  connect();
  doorbells->arm(channels, version);
  doorbells->disarm();
  const std::weak_ptr<RingChannel> gone = channels.front();
  channels.erase(channels.begin());
  doorbells->refresh(channels, ++version);
  EXPECT_TRUE(gone.expired()) << "still held";
  left.ring(kind());
  doorbells->arm(channels, version);
  EXPECT_TRUE(sleeps_on());
}

TEST_P(DoorbellsTest, do_not_hear_a_rogue_on_the_slow_list_until_it_had_work) {
  RingClient& rogue = connect();
  RingClient& honest = connect();
  std::uint32_t rings = 0;
  while (doorbells->slow_count() == 0) {
    doorbells->arm(channels, version);
    rogue.ring(kind());
    ASSERT_TRUE(sleeps_until_woken());
    doorbells->disarm();
    doorbells->judge_rings();
    ++rings;
  }
  EXPECT_EQ(rings, kMaxIdleRings);
  // It survives that others come and go.
  connect();
  doorbells->arm(channels, version);
  EXPECT_EQ(doorbells->slow_count(), 1u);
  rogue.ring(kind());
  EXPECT_TRUE(sleeps_on());
  honest.ring(kind());
  EXPECT_TRUE(sleeps_until_woken());
  doorbells->disarm();
  ++channels[0]->scheduling.taken;
  doorbells->judge_rings();
  EXPECT_EQ(doorbells->slow_count(), 0u);
  doorbells->arm(channels, version);
  rogue.ring(kind());
  EXPECT_TRUE(sleeps_until_woken());
}

TEST_P(DoorbellsTest, do_not_put_a_client_on_the_slow_list_that_rings_with_work) {
  RingClient& client = connect();
  for (std::uint32_t i = 0; i < 3 * kMaxIdleRings; ++i) {
    doorbells->arm(channels, version);
    client.ring(kind());
    ASSERT_TRUE(sleeps_until_woken());
    doorbells->disarm();
    if (i % 2 == 0) ++channels[0]->scheduling.taken;
    doorbells->judge_rings();
  }
  EXPECT_EQ(doorbells->slow_count(), 0u);
}

TEST_P(DoorbellsTest, look_into_the_slow_list_from_time_to_time) {
  RingClient& rogue = connect();
  while (doorbells->slow_count() == 0) {
    doorbells->arm(channels, version);
    rogue.ring(kind());
    ASSERT_TRUE(sleeps_until_woken());
    doorbells->judge_rings();
  }
  doorbells->arm(channels, version);
  EXPECT_TRUE(sleeps_until_woken()) << "nobody rings, and nobody looks";
}

TEST_P(DoorbellsTest, sleep_although_a_client_has_closed_its_socket) {
  RingClient& gone = connect();
  RingClient& client = connect();
  gone.close_socket();
  // One wake tells that it is gone; then it is quiet.
  for (int i = 0; i < 3; ++i) {
    doorbells->arm(channels, version);
    doorbells->sleep(steady_clock::now() + std::chrono::milliseconds(5));
    doorbells->disarm();
    doorbells->judge_rings();
  }
  doorbells->arm(channels, version);
  EXPECT_TRUE(sleeps_on());
  client.ring(kind());
  EXPECT_TRUE(sleeps_until_woken());
}

TEST_P(DoorbellsTest, change_to_sockets_and_back_as_channels_come_and_go) {
  for (std::size_t i = 0; i < kMaxFutexWords; ++i) connect();
  doorbells->arm(channels, version);
  EXPECT_EQ(clients.back()->ring_if_needed(), Wakeup::kSocket);
  EXPECT_TRUE(sleeps_until_woken());
  doorbells->disarm();
  channels.pop_back();
  doorbells->arm(channels, ++version);
  EXPECT_EQ(clients.front()->ring_if_needed(), kind());
  EXPECT_TRUE(sleeps_until_woken());
}

INSTANTIATE_TEST_SUITE_P(Kinds, DoorbellsTest,
                         ::testing::Values(WakeupPolicy::kAuto, WakeupPolicy::kSocket),
                         [](const auto& info) {
                           return info.param == WakeupPolicy::kSocket ? "socket" : "futex";
                         });

}  // namespace
}  // namespace bucketd
