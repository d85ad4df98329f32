#include <gmock/gmock.h>

#include <thread>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;

class ReconnectTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, ReconnectTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(ReconnectTest, request_that_killed_its_worker_is_aborted_and_the_rest_may_be_sent_again) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Future first = get(get(echo_request(model, 1, 3)).submit());
  Future second = get(get(echo_request(model, 2, 3)).submit());
  daemon.wait_for_submissions(2);
  daemon.kill_worker(Executing::kFirst);
  const Status executing = status_of(first.wait(patience()));
  EXPECT_EQ(executing.code(), StatusCode::kAborted);
  EXPECT_EQ(executing.message(),
            "model 'echo': the worker ended while it ran this request: worker 0 was killed by "
            "SIGSEGV");
  const Status waiting = status_of(second.wait(patience()));
  EXPECT_EQ(waiting.code(), StatusCode::kUnavailable);
  EXPECT_THAT(waiting.message(), HasSubstr("may be sent again"));

  daemon.release_answers();
  EXPECT_TRUE(echoes(model, 3, 3));
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(ReconnectTest, a_sleeping_caller_hears_of_the_workers_end) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Status heard;
  std::thread caller([&] { heard = status_of(get(echo_request(model, 1, 3)).run()); });
  daemon.wait_for_submissions(1);
  daemon.kill_worker(Executing::kAll);
  caller.join();
  EXPECT_EQ(heard.code(), StatusCode::kAborted);
}

TEST_P(ReconnectTest, answers_given_before_the_workers_end_still_count) {
  Client client = connect();
  Model model = get(client.open("echo"));
  Future answered = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.hold_answers();
  Future lost = get(get(echo_request(model, 2, 3)).submit());
  daemon.wait_for_submissions(2);
  daemon.kill_worker(Executing::kAll);
  EXPECT_EQ(status_of(lost.wait(patience())).code(), StatusCode::kAborted);
  EXPECT_TRUE(is_echo_of(get(answered.wait(patience())), 1, 3));
}

TEST_P(ReconnectTest, worker_whose_end_nobody_explains_may_have_run_the_request) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.kill_worker_silently();
  const Status status = status_of(future.wait(patience()));
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("may or may not have run"));
}

TEST_P(ReconnectTest, request_that_was_filled_before_the_workers_end_goes_to_the_next) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 5));
  Request padded = get(echo_request(model, 10, 5));
  ASSERT_TRUE(padded.is_padded());
  Request raw = get(echo_request(model, 20, 6));
  raw.set_priority(3);
  daemon.kill_worker(Executing::kNothing);
  EXPECT_TRUE(is_echo_of(get(std::move(padded).run()), 10, 5));
  EXPECT_TRUE(is_echo_of(get(std::move(raw).run()), 20, 6));
  EXPECT_EQ(daemon.submissions().back().priority, 3);
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(ReconnectTest, reply_outlives_its_worker) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const Reply reply = get(get(echo_request(model, 7, 4)).run());
  daemon.kill_worker(Executing::kNothing);
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_TRUE(is_echo_of(reply, 7, 4));
}

TEST_P(ReconnectTest, plans_of_the_last_worker_are_not_used_on_the_next) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 5));
  EXPECT_TRUE(get(echo_request(model, 1, 5)).is_padded());
  daemon.kill_worker(Executing::kNothing);
  EXPECT_FALSE(get(echo_request(model, 1, 5)).is_padded());
}

TEST_P(ReconnectTest, daemon_that_restarts_is_found_again) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 3));
  daemon.stop();
  daemon.start();
  EXPECT_TRUE(echoes(model, 2, 3));
  EXPECT_EQ(get(client.models()).size(), 1u);
}

TEST_P(ReconnectTest, what_was_in_flight_when_the_daemon_went_may_have_run) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.stop();
  const Status status = status_of(future.wait(patience()));
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("model 'echo'"));
  EXPECT_THAT(status.message(), HasSubstr("may or may not have run"));
  EXPECT_THAT(status.message(), HasSubstr("the daemon is away"));
}

TEST_P(ReconnectTest, request_waits_for_a_daemon_that_is_away) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.stop();
  std::thread caller([&] { EXPECT_TRUE(echoes(model, 1, 3)); });
  daemon.start();
  caller.join();
}

TEST_P(ReconnectTest, daemon_that_stays_away_is_unavailable_at_the_deadline) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.stop();
  RequestOptions options;
  options.wait_until = std::chrono::steady_clock::now() + std::chrono::milliseconds(30);
  EXPECT_EQ(status_of(echo_request(model, 1, 3, options)).code(), StatusCode::kUnavailable);
}

TEST_P(ReconnectTest, unloaded_model_says_so) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 3));
  daemon.unload_model("echo");
  EXPECT_EQ(status_of(echo_request(model, 1, 3)).code(), StatusCode::kNotFound);
  daemon.add_model(echo_model());
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST_P(ReconnectTest, model_that_was_replaced_is_described_anew) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.unload_model("echo");
  ModelDescription replacement = echo_model();
  replacement.producer = "another";
  daemon.add_model(replacement);
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_EQ(model.description().producer, "another");
}

TEST_P(ReconnectTest, refusal_of_the_daemon_reaches_the_caller) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.refuse_lanes(
      Status(StatusCode::kPermissionDenied, "this user's requests killed model 'echo' 3 times"));
  daemon.kill_worker(Executing::kNothing);
  const Status status = status_of(echo_request(model, 1, 3));
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("3 times"));
  daemon.refuse_lanes({});
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST_P(ReconnectTest, those_who_wait_for_a_slot_get_one_of_the_next_worker) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  std::vector<Future> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(get(get(echo_request(model, i, 3)).submit()));
  daemon.wait_for_submissions(4);
  std::thread caller([&] { EXPECT_TRUE(echoes(model, 50, 3)); });
  daemon.kill_worker(Executing::kNothing);
  daemon.wait_for_submissions(5);
  daemon.release_answers();
  caller.join();
}

TEST_P(ReconnectTest, many_threads_survive_many_restarts) {
  Client client = connect();
  std::atomic<bool> is_over{false};
  std::atomic<int> answered{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Model model = get(client.open("echo"));
      for (int i = 0; !is_over; ++i) {
        Request request = get(echo_request(model, 1000 * t + i, 1 + i % kLargeBucket));
        const Result<Reply> reply = std::move(request).run();
        if (!reply) {
          // In flight when the daemon went, or between two daemons.
          EXPECT_THAT(reply.error().code(),
                      ::testing::AnyOf(StatusCode::kAborted, StatusCode::kUnavailable))
              << reply.error().to_string();
          continue;
        }
        EXPECT_TRUE(is_echo_of(*reply, 1000 * t + i, 1 + i % kLargeBucket));
        ++answered;
      }
    });
  }
  for (std::size_t restart = 1; restart <= 20; ++restart) {
    daemon.wait_for_submissions(restart * 50);
    if (restart % 5 == 0) {
      daemon.stop();
      daemon.start();
    } else {
      daemon.kill_worker(Executing::kNothing);
    }
  }
  is_over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(answered, 500);
}

}  // namespace
}  // namespace bucketd::testing
