#include <gmock/gmock.h>

#include <thread>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

class ThreadsTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, ThreadsTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(ThreadsTest, more_threads_than_slots_all_get_their_own_answers) {
  daemon.add_model(echo_model("other"));
  Client client = connect();
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&, t] {
      Model model = get(client.open(t % 3 == 0 ? "other" : "echo"));
      for (int i = 0; i < 300; ++i) ASSERT_TRUE(echoes(model, 10000 * t + i, 1 + i % 16));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(ThreadsTest, leadership_passes_on_when_the_leader_is_served_first) {
  Client client = connect();
  Model model = get(client.open("echo"));
  for (int round = 0; round < 20; ++round) {
    daemon.hold_answers();
    const std::size_t before = daemon.submissions().size();
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t) {
      callers.emplace_back([&, t] { EXPECT_TRUE(echoes(model, 100 * t, 4)); });
    }
    daemon.wait_for_submissions(before + 4);
    // One at a time: whoever leads, sooner or later it is the leader's.
    for (int t = 0; t < 4; ++t) daemon.release_one_answer();
    for (std::thread& caller : callers) caller.join();
  }
}

TEST_P(ThreadsTest, caller_that_waits_for_a_slot_is_woken_by_its_release) {
  Client client = connect();
  Model model = get(client.open("echo"));
  for (int round = 0; round < 20; ++round) {
    std::vector<Request> all;
    for (int i = 0; i < 4; ++i) all.push_back(get(echo_request(model, 1, 3)));
    // Each needs a slot; nothing is in flight, so only the releases below can wake them.
    std::vector<std::thread> callers;
    for (int t = 0; t < 3; ++t) {
      callers.emplace_back([&, t] { EXPECT_TRUE(echoes(model, 100 * t, 4)); });
    }
    all.clear();
    for (std::thread& caller : callers) caller.join();
  }
}

TEST_P(ThreadsTest, deadline_of_a_follower_does_not_depend_on_the_leader) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  std::thread leader([&] { EXPECT_TRUE(echoes(model, 1, 3)); });
  daemon.wait_for_submissions(1);
  Future future = get(get(echo_request(model, 2, 3)).submit());
  EXPECT_EQ(status_of(future.wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(20)))
                .code(),
            StatusCode::kDeadlineExceeded);
  daemon.wait_for_submissions(2);
  daemon.release_answers();
  leader.join();
  EXPECT_TRUE(is_echo_of(get(future.wait(patience())), 2, 3));
}

TEST_P(ThreadsTest, futures_are_waited_for_by_other_threads_than_submitted_them) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  std::vector<Future> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(get(get(echo_request(model, i, 3)).submit()));
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.emplace_back([&, i] {
      EXPECT_TRUE(is_echo_of(get(futures[static_cast<std::size_t>(i)].wait(patience())), i, 3));
    });
  }
  daemon.wait_for_submissions(4);
  daemon.release_answers(/*newest_first=*/true);
  for (std::thread& waiter : waiters) waiter.join();
}

}  // namespace
}  // namespace bucketd::testing
