#include <gmock/gmock.h>
#include <poll.h>

#include <thread>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

bool is_readable(int fd, int timeout_ms) {
  pollfd polled{fd, POLLIN, 0};
  return ::poll(&polled, 1, timeout_ms) == 1;
}
constexpr int kPatienceMs = 30000;

// What an event loop does until `future` is over.
::testing::AssertionResult comes_by_event_loop(Client& client, Future& future) {
  while (!future.ready()) {
    if (!is_readable(client.poll_fd(), kPatienceMs)) {
      return ::testing::AssertionFailure() << "the descriptor did not become readable";
    }
    client.dispatch();
  }
  return ::testing::AssertionSuccess();
}

class PollTest : public BothTransports {
 protected:
  // What was there already when poll_fd() was asked for may raise it once more.
  static void settle(Client& client) {
    while (is_readable(client.poll_fd(), 0)) client.dispatch();
  }
};
INSTANTIATE_TEST_SUITE_P(Transports, PollTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(PollTest, answer_makes_it_readable_and_dispatch_takes_it) {
  Client client = connect();
  Model model = get(client.open("echo"));
  settle(client);
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  EXPECT_FALSE(is_readable(client.poll_fd(), 0));
  daemon.release_answers();
  ASSERT_TRUE(is_readable(client.poll_fd(), kPatienceMs));
  EXPECT_TRUE(comes_by_event_loop(client, future));
  EXPECT_TRUE(is_echo_of(get(future.wait(already_over())), 1, 3));
}

TEST_P(PollTest, is_quiet_after_dispatch_and_raised_again_by_the_next_answer) {
  Client client = connect();
  Model model = get(client.open("echo"));
  for (int i = 0; i < 100; ++i) {
    Future future = get(get(echo_request(model, i, 1 + i % kLargeBucket)).submit());
    ASSERT_TRUE(comes_by_event_loop(client, future));
    EXPECT_TRUE(is_echo_of(get(future.wait()), i, 1 + i % kLargeBucket));
  }
  settle(client);
  EXPECT_FALSE(is_readable(client.poll_fd(), 0));
}

TEST_P(PollTest, number_is_constant_and_works_for_models_opened_later_and_before) {
  daemon.add_model(echo_model("other"));
  Client client = connect();
  Model echo = get(client.open("echo"));
  const int fd = client.poll_fd();
  Model other = get(client.open("other"));
  EXPECT_EQ(client.poll_fd(), fd);
  Future first = get(get(echo_request(echo, 1, 3)).submit());
  Future second = get(get(echo_request(other, 2, 3)).submit());
  EXPECT_TRUE(comes_by_event_loop(client, first));
  EXPECT_TRUE(comes_by_event_loop(client, second));
}

TEST_P(PollTest, end_of_the_worker_makes_it_readable) {
  Client client = connect();
  Model model = get(client.open("echo"));
  settle(client);
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.kill_worker(Executing::kAll);
  EXPECT_TRUE(comes_by_event_loop(client, future));
  EXPECT_EQ(status_of(future.wait()).code(), StatusCode::kAborted);
  daemon.release_answers();
  Future next = get(get(echo_request(model, 2, 3)).submit());
  EXPECT_TRUE(comes_by_event_loop(client, next));
  settle(client);
  EXPECT_FALSE(is_readable(client.poll_fd(), 0));
}

TEST_P(PollTest, end_of_the_daemon_makes_it_readable_and_the_next_one_is_polled) {
  Client client = connect();
  Model model = get(client.open("echo"));
  settle(client);
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.stop();
  EXPECT_TRUE(comes_by_event_loop(client, future));
  EXPECT_EQ(status_of(future.wait()).code(), StatusCode::kAborted);
  settle(client);
  EXPECT_FALSE(is_readable(client.poll_fd(), 0));
  daemon.start();
  daemon.release_answers();
  Future next = get(get(echo_request(model, 2, 3)).submit());
  EXPECT_TRUE(comes_by_event_loop(client, next));
}

TEST_P(PollTest, blocking_callers_and_an_event_loop_do_not_steal_each_others_news) {
  Client client = connect();
  Model model = get(client.open("echo"));
  ASSERT_GE(client.poll_fd(), 0);
  std::atomic<bool> is_over{false};
  std::vector<std::thread> callers;
  for (int t = 0; t < 2; ++t) {
    callers.emplace_back([&, t, model]() mutable {
      for (int i = 0; !is_over; ++i) ASSERT_TRUE(echoes(model, 1000 * t + i, 1 + i % 16));
    });
  }
  for (int i = 0; i < 500; ++i) {
    Future future = get(get(echo_request(model, i, 5)).submit());
    ASSERT_TRUE(comes_by_event_loop(client, future));
    EXPECT_TRUE(is_echo_of(get(future.wait()), i, 5));
  }
  is_over = true;
  for (std::thread& caller : callers) caller.join();
}

TEST_P(PollTest, caller_that_sleeps_already_is_woken_after_the_change_to_polling) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  std::thread caller([&] { EXPECT_TRUE(echoes(model, 1, 3)); });
  daemon.wait_for_submissions(1);
  EXPECT_GE(client.poll_fd(), 0);
  daemon.release_answers();
  caller.join();
}

}  // namespace
}  // namespace bucketd::testing
