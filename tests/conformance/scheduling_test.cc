// When answers come: many in flight, out of order, by priority, at a deadline, and not at all for a
// client that left.
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/conformance/conformance.h"

namespace bucketd::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kPast = SteadyTime::min();

Future submit_rounds(Model& model, std::int64_t count, const CallOptions& options = {}) {
  const Tensor input = rounds(count);
  Result<Future> future = submit(model, std::span(&input, 1), options);
  if (future) return std::move(*future);
  ADD_FAILURE() << future.error().to_string();
  throw std::runtime_error("a request could not be submitted");
}

TEST_P(Conformance, every_slot_may_be_in_flight_and_each_request_gets_its_own_answer) {
  Model model = open("identity_int64");
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::vector<Future> futures;
    for (std::size_t i = 0; i < model.slot_count(); ++i) {
      const auto size = static_cast<std::int64_t>(i % 17);
      const Tensor input = filled<std::int64_t>({size}, static_cast<std::int64_t>(i) + repeat);
      Result<Future> future = submit(model, std::span(&input, 1), {.deadline = patience()});
      ASSERT_TRUE(future) << "slot " << i << ": " << future.error().to_string();
      futures.push_back(std::move(*future));
    }
    for (std::size_t i = 0; i < futures.size(); ++i) {
      const Result<Reply> reply = futures[i].wait();
      ASSERT_TRUE(reply) << reply.error().to_string();
      const auto size = static_cast<std::int64_t>(i % 17);
      EXPECT_THAT(outputs_of(*reply),
                  ElementsAre(filled<std::int64_t>({size}, static_cast<std::int64_t>(i) + repeat)));
    }
  }
}

TEST_P(Conformance, without_a_free_slot_the_caller_is_told_at_once_and_may_wait) {
  Model model = open(kSlowAlone);
  std::vector<Future> futures;
  for (std::size_t i = 0; i < model.slot_count(); ++i) {
    futures.push_back(submit_rounds(model, i == 0 ? kManyRounds : kOneRound));
  }
  EXPECT_EQ(model.free_slot_count(), 0u);
  const Tensor input = rounds(kOneRound);
  const Result<Request> refused = model.new_request({Shape{1}}, {.wait_until = kPast});
  ASSERT_FALSE(refused) << "a request without a slot";
  EXPECT_EQ(refused.error().code(), StatusCode::kWouldBlock) << refused.error().to_string();
  for (Future& future : futures) EXPECT_TRUE(future.wait());
  futures.clear();
  const Result<Answer> answer = call(model, std::span(&input, 1), {.deadline = patience()});
  EXPECT_TRUE(answer) << answer.error().to_string();
}

TEST_P(Conformance, a_short_request_overtakes_a_long_one_on_another_core) {
  Model model = open("slow");
  Future slow = submit_rounds(model, kManyRounds);
  Future fast = submit_rounds(model, kOneRound);
  const Result<Reply> reply = fast.wait(patience());
  ASSERT_TRUE(reply) << reply.error().to_string();
  EXPECT_FALSE(slow.ready()) << "the long request was answered first";
  const Result<Reply> late = slow.wait(patience());
  EXPECT_TRUE(late) << late.error().to_string();
}

TEST_P(Conformance, a_higher_priority_runs_sooner) {
  Model model = open(kSlowAlone);
  Future running = submit_rounds(model, kManyRounds);
  Future low = submit_rounds(model, kManyRounds, {.priority = 0});
  Future high = submit_rounds(model, kOneRound, {.priority = 7});
  const Result<Reply> reply = high.wait(patience());
  ASSERT_TRUE(reply) << reply.error().to_string();
  EXPECT_FALSE(low.ready()) << "the earlier request of low priority ran first";
  EXPECT_TRUE(low.wait(patience()));
  EXPECT_TRUE(running.wait(patience()));
}

TEST_P(Conformance, a_request_that_did_not_start_by_its_deadline_is_dropped) {
  Model model = open(kSlowAlone);
  Future running = submit_rounds(model, kManyRounds);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  Future late = submit_rounds(model, kOneRound, {.deadline = deadline});
  const Result<Reply> reply = late.wait(patience());
  ASSERT_FALSE(reply) << "it ran";
  EXPECT_EQ(reply.error().code(), StatusCode::kDeadlineExceeded) << reply.error().to_string();
  EXPECT_THAT(reply.error().message(), HasSubstr(kSlowAlone));
  EXPECT_TRUE(running.wait(patience()));
  EXPECT_TRUE(submit_rounds(model, kOneRound).wait(patience()));
}

TEST_P(Conformance, waiting_with_a_deadline_leaves_the_future_as_it_is) {
  Model model = open(kSlowAlone);
  Future running = submit_rounds(model, kManyRounds);
  const Result<Reply> early = running.wait(kPast);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code(), StatusCode::kDeadlineExceeded) << early.error().to_string();
  const Result<Reply> reply = running.wait(patience());
  EXPECT_TRUE(reply) << reply.error().to_string();
}

TEST_P(Conformance, an_abandoned_request_gives_its_slot_back) {
  Model model = open(kSlowAlone);
  { const Future abandoned = submit_rounds(model, kOneRound); }
  EXPECT_TRUE(submit_rounds(model, kOneRound).wait(patience()));
  EXPECT_TRUE(eventually([&] {
    (void)submit_rounds(model, kOneRound).wait(patience());
    return model.free_slot_count() == model.slot_count();
  }));
}

TEST_P(Conformance, what_a_client_left_in_the_queue_is_not_executed) {
  Client watcher = connect();
  // None of these fails when it is executed; what is answered without being executed counts as
  // failed.
  const auto executed = [&] {
    const Result<DaemonStatus> status = watcher.status();
    EXPECT_TRUE(status) << status.error().to_string();
    return status ? status->workers.at(1).completed : 0;
  };
  const std::uint64_t before = executed();
  std::size_t submitted = 0;
  {
    Model model = open(kSlowAlone);
    Future first = submit_rounds(model, kOneRound);
    std::vector<Future> futures;
    for (; submitted < std::min<std::size_t>(model.slot_count() - 1, 16); ++submitted) {
      futures.push_back(submit_rounds(model, kManyRounds));
    }
    EXPECT_TRUE(first.wait(patience()));  // the executor is at the others now
  }
  ASSERT_GT(submitted, 2u);
  EXPECT_TRUE(eventually([&] {
    const Result<DaemonStatus> status = watcher.status();
    return status && status->lanes == 0 && status->connections == 1;
  })) << "the daemon still keeps what belonged to a client that left";
  // Another client's request is behind all that would have been executed.
  Model model = open(kSlowAlone);
  EXPECT_TRUE(submit_rounds(model, kOneRound).wait(patience()));
  EXPECT_LT(executed() - before, submitted) << "the whole queue of a dead client was executed";
}

TEST_P(Conformance, an_event_loop_learns_of_completions_from_a_descriptor) {
  Client client = connect();
  Result<Model> model = client.open("slow");
  ASSERT_TRUE(model) << model.error().to_string();
  const int fd = client.poll_fd();
  std::vector<Future> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(submit_rounds(*model, 100));
  while (!futures.empty()) {
    pollfd entry{fd, POLLIN, 0};
    ASSERT_GT(::poll(&entry, 1, 60000), 0) << "no wake-up, " << futures.size() << " of 4 are open";
    client.dispatch();
    std::vector<Future> open;
    for (Future& future : futures) {
      if (future.ready()) {
        EXPECT_TRUE(future.wait());
      } else {
        open.push_back(std::move(future));
      }
    }
    futures = std::move(open);
  }
}

TEST_P(Conformance, many_threads_may_share_one_model) {
  Model model = open("multi");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Model mine = model;
      for (int i = 0; i < 200; ++i) {
        const std::int64_t size = 1 + (i + t) % 8;
        const Result<Answer> answer =
            call(mine, {filled<float>({1, size}, 1), filled<std::int64_t>({1, size}, t)},
                 {.deadline = patience()});
        ASSERT_TRUE(answer) << answer.error().to_string();
        EXPECT_EQ(answer->outputs[1], filled<std::int64_t>({1, size}, 2 * t));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace bucketd::test
