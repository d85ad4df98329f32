#include "daemon/worker/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <map>
#include <thread>

#include "daemon/worker/monotonic_clock.h"
#include "daemon/worker/testing/serving.h"

namespace bucketd {
namespace {

using ::testing::ElementsAre;
using testing::Gate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::pad_model;
using testing::Serving;
using testing::tensor;
using testing::TestAnswer;

const testing::TestTensor kInput = tensor<std::int64_t>({1, 2}, {1, 2});

// A model whose executions stop at `gate` and note the first element of their input.
struct GatedModel {
  explicit GatedModel(Serving& owner)
      : serving(owner),
        model(serving.add_model(pad_model("m", {4}),
                                [this](const testing::FakeModel::Execution& execution) {
                                  std::int64_t first = 0;
                                  std::memcpy(&first, execution.inputs[0].data, sizeof(first));
                                  {
                                    const std::lock_guard lock(mutex);
                                    order.push_back(first);
                                    executors.insert(execution.executor);
                                  }
                                  gate.pass();
                                  return Status();
                                })) {}
  ~GatedModel() {
    gate.open();
    serving.stop();
  }
  std::vector<std::int64_t> ran() {
    const std::lock_guard lock(mutex);
    return order;
  }
  Serving& serving;
  std::mutex mutex;
  std::vector<std::int64_t> order;
  std::set<std::size_t> executors;
  Gate gate;
  std::shared_ptr<LoadedModel> model;
};

testing::TestTensor marked(std::int64_t mark) { return tensor<std::int64_t>({1, 1}, {mark}); }

void wait_for_answers(testing::RingClientLane& lane, int count) {
  for (int i = 0; i < count; ++i) ASSERT_TRUE(lane.wait().has_value());
}

// --- who runs next ---

TEST(Scheduler, takes_turns_between_clients) {
  Serving serving;
  GatedModel gated(serving);
  const auto greedy = serving.connect(gated.model, 8);
  const auto modest = serving.connect(gated.model, 8);
  greedy->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  for (std::uint32_t slot = 1; slot < 6; ++slot) greedy->lane->submit(slot, 1, marked(slot + 1));
  modest->lane->submit(0, 1, marked(100));
  modest->lane->submit(1, 1, marked(101));
  gated.gate.open();
  wait_for_answers(*greedy->lane, 6);
  wait_for_answers(*modest->lane, 2);
  EXPECT_THAT(gated.ran(), ElementsAre(1, 2, 100, 3, 101, 4, 5, 6));
}

TEST(Scheduler, prefers_the_higher_priority_among_one_clients_requests) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 8);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  const auto submit = [&](std::uint32_t slot, std::int64_t mark, std::uint8_t priority) {
    SubmissionEntry entry{};
    entry.priority = priority;
    client->lane->submit(slot, 1, marked(mark), entry);
  };
  submit(1, 10, 0);
  submit(2, 20, 5);
  submit(3, 11, 0);
  submit(4, 30, 255);
  submit(5, 21, 5);
  gated.gate.open();
  wait_for_answers(*client->lane, 6);
  EXPECT_THAT(gated.ran(), ElementsAre(1, 30, 20, 21, 10, 11));
}

TEST(Scheduler, runs_requests_of_a_session_in_order_one_at_a_time_whatever_their_priority) {
  Serving serving({.executors = 3});
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 8);
  for (const std::uint64_t handle : {7, 8}) {
    ASSERT_TRUE(serving.scheduler().add_session(
        std::make_shared<Session>(GoneNotice(), client->channel_id, handle, gated.model, nullptr,
                                  std::vector<TensorView>{})));
  }
  // The model holds no state, so that these are answered with an error: only their order counts.
  // Requests without a session stop at the gate.
  SubmissionEntry entry{};
  entry.session_handle = 7;
  std::vector<std::uint64_t> answered;
  for (std::uint32_t slot = 0; slot < 6; ++slot) {
    entry.priority = static_cast<std::uint8_t>(slot);
    testing::write_inputs(client->lane->input(slot), std::span(&kInput, 1));
    entry.slot = slot;
    entry.user_data = slot;
    entry.tensor_count = 1;
    client->lane->put(entry);
  }
  client->lane->publish();
  for (int i = 0; i < 6; ++i) answered.push_back(client->lane->wait()->entry.user_data);
  EXPECT_THAT(answered, ElementsAre(0, 1, 2, 3, 4, 5));
}

// --- several cores ---

TEST(Scheduler, uses_as_many_executors_as_there_is_work) {
  Serving serving({.executors = 4});
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 8);
  for (std::uint32_t slot = 0; slot < 8; ++slot) client->lane->submit(slot, 1, marked(slot));
  // Nobody gets through before all four are in.
  ASSERT_TRUE(gated.gate.wait_for_visitors(4));
  EXPECT_EQ(gated.gate.visitors(), 4);
  {
    const std::lock_guard lock(gated.mutex);
    EXPECT_EQ(gated.executors.size(), 4u);
  }
  gated.gate.open();
  wait_for_answers(*client->lane, 8);
  EXPECT_EQ(serving.backend.prepared_executors().size(), 4u);
}

TEST(Scheduler, has_somebody_watch_while_a_long_request_runs) {
  Serving serving({.executors = 2});
  GatedModel gated(serving);
  const auto quick = serving.add_model(pad_model("quick", {4}));
  const auto slow_client = serving.connect(gated.model);
  const auto quick_client = serving.connect(quick);
  slow_client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  for (int i = 0; i < 10; ++i) {
    quick_client->lane->submit(0, 1, kInput);
    ASSERT_EQ(quick_client->lane->wait()->status(), StatusCode::kOk);
  }
  gated.gate.open();
  wait_for_answers(*slow_client->lane, 1);
}

TEST(Scheduler, takes_what_came_while_every_executor_was_busy) {
  Serving serving({.executors = 2});
  GatedModel gated(serving);
  const auto first = serving.connect(gated.model);
  const auto second = serving.connect(gated.model);
  first->lane->submit(0, 1, marked(1));
  first->lane->submit(1, 2, marked(2));
  ASSERT_TRUE(gated.gate.wait_for_visitors(2));
  second->lane->submit(0, 3, marked(3));
  EXPECT_EQ(second->ring.worker_page().need_wakeup.load(), 0u) << "nobody sleeps";
  gated.gate.open();
  EXPECT_TRUE(second->lane->wait().has_value());
}

// --- wake-ups ---

class BothWakeups : public ::testing::TestWithParam<WakeupPolicy> {};

TEST_P(BothWakeups, answer_request_after_request_with_both_sides_sleeping) {
  Serving serving({.executors = 2, .policy = GetParam()});
  const auto client = serving.connect(serving.add_model(pad_model("m", {4})));
  for (const Wakeup how : {Wakeup::kFutex, Wakeup::kSocket}) {
    for (int i = 0; i < 200; ++i) {
      client->lane->submit(0, static_cast<std::uint64_t>(i), kInput);
      const std::optional<TestAnswer> answer = client->lane->wait(how);
      ASSERT_TRUE(answer.has_value());
      ASSERT_EQ(answer->entry.user_data, static_cast<std::uint64_t>(i));
      if (i % 20 == 0) {
        ASSERT_TRUE(serving.wait_until_idle());
      }
    }
  }
  EXPECT_EQ(serving.scheduler().wakeup_kind(),
            GetParam() == WakeupPolicy::kSocket ? Wakeup::kSocket : Wakeup::kFutex);
}

TEST_P(BothWakeups, tell_the_client_how_to_wake_the_worker) {
  Serving serving({.policy = GetParam()});
  const auto client = serving.connect(serving.add_model(pad_model("m", {4})));
  ASSERT_TRUE(serving.wait_until_idle());
  const Wakeup expected = GetParam() == WakeupPolicy::kSocket ? Wakeup::kSocket : Wakeup::kFutex;
  // The leader armed before the channel was there, and arms anew.
  while (client->ring.worker_page().need_wakeup.load() != static_cast<std::uint32_t>(expected)) {
    std::this_thread::yield();
  }
}

TEST_P(BothWakeups, serve_more_channels_than_a_futex_wait_takes) {
  Serving serving({.executors = 2, .policy = GetParam()});
  const auto model = serving.add_model(pad_model("m", {4}));
  std::vector<std::unique_ptr<Serving::Client>> clients;
  for (int i = 0; i < 150; ++i) clients.push_back(serving.connect(model, 1, 4096));
  for (int round = 0; round < 2; ++round) {
    for (auto& client : clients) {
      client->lane->submit(0, 1, kInput);
      ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
    }
    ASSERT_TRUE(serving.wait_until_idle());
    EXPECT_EQ(serving.scheduler().wakeup_kind(), Wakeup::kSocket);
  }
  // All at once.
  for (auto& client : clients) client->lane->submit(0, 2, kInput);
  for (auto& client : clients) ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  // Few again.
  while (clients.size() > 100) {
    serving.scheduler().close_channel(clients.back()->channel_id);
    clients.pop_back();
  }
  for (auto& client : clients) {
    client->lane->submit(0, 3, kInput);
    ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  }
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_EQ(serving.scheduler().wakeup_kind(),
            GetParam() == WakeupPolicy::kSocket ? Wakeup::kSocket : Wakeup::kFutex);
}

TEST_P(BothWakeups, put_a_client_that_rings_for_nothing_on_the_slow_list_until_it_has_work) {
  Serving serving({.policy = GetParam()});
  const auto model = serving.add_model(pad_model("m", {4}));
  const auto rogue = serving.connect(model);
  const auto honest = serving.connect(model);
  const Wakeup how = GetParam() == WakeupPolicy::kSocket ? Wakeup::kSocket : Wakeup::kFutex;
  while (serving.scheduler().slow_channel_count() == 0) {
    rogue->ring.ring(how);
    std::this_thread::yield();
  }
  honest->lane->submit(0, 1, kInput);
  EXPECT_EQ(honest->lane->wait()->status(), StatusCode::kOk);
  EXPECT_EQ(serving.scheduler().slow_channel_count(), 1u);
  rogue->lane->submit(0, 1, kInput);
  EXPECT_EQ(rogue->lane->wait()->status(), StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_EQ(serving.scheduler().slow_channel_count(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Wakeups, BothWakeups,
                         ::testing::Values(WakeupPolicy::kAuto, WakeupPolicy::kSocket),
                         [](const auto& info) {
                           return info.param == WakeupPolicy::kSocket ? "socket" : "futex";
                         });

TEST(Scheduler, does_not_spin_on_the_socket_of_a_client_that_closed_it) {
  Serving serving({.policy = WakeupPolicy::kSocket});
  const auto model = serving.add_model(pad_model("m", {4}));
  const auto gone = serving.connect(model);
  const auto client = serving.connect(model);
  gone->ring.close_socket();
  client->lane->submit(0, 1, kInput);
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  serving.scheduler().close_channel(gone->channel_id);
  client->lane->submit(0, 2, kInput);
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
}

// --- rogue clients ---

TEST(Scheduler, ends_a_client_whose_tail_is_further_ahead_than_the_ring_is_long) {
  Serving serving;
  const auto model = serving.add_model(pad_model("m", {4}));
  const auto rogue = serving.connect(model, 4);
  const auto honest = serving.connect(model, 4);
  rogue->lane->header().submission_tail.store(5);
  rogue->ring.ring_if_needed();
  ASSERT_TRUE(serving.wait_for_violation());
  EXPECT_EQ(serving.violations()[0].first, rogue->channel_id);
  EXPECT_THAT(serving.violations()[0].second, HasSubstr("submission tail of lane 1"));
  honest->lane->submit(0, 1, kInput);
  EXPECT_EQ(honest->lane->wait()->status(), StatusCode::kOk);
  EXPECT_EQ(serving.violations().size(), 1u) << "told once";
}

TEST(Scheduler, ends_a_client_that_moves_its_tail_back) {
  Serving serving;
  const auto rogue = serving.connect(serving.add_model(pad_model("m", {4})), 4);
  rogue->lane->submit(0, 1, kInput);
  ASSERT_TRUE(rogue->lane->wait().has_value());
  rogue->lane->header().submission_tail.store(0);
  rogue->ring.ring_if_needed();
  EXPECT_TRUE(serving.wait_for_violation());
}

TEST(Scheduler, ends_a_client_that_names_a_slot_that_does_not_exist) {
  Serving serving;
  const auto rogue = serving.connect(serving.add_model(pad_model("m", {4})), 4);
  SubmissionEntry entry{};
  entry.slot = 4;
  rogue->lane->put(entry);
  rogue->lane->publish();
  ASSERT_TRUE(serving.wait_for_violation());
  EXPECT_EQ(serving.violations()[0].second, "a submission names slot 4 of 4");
}

TEST(Scheduler, ends_a_client_that_submits_a_slot_in_flight_and_drops_its_queue) {
  Serving serving;
  GatedModel gated(serving);
  const auto rogue = serving.connect(gated.model, 4);
  const auto honest = serving.connect(gated.model, 4);
  rogue->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  rogue->lane->submit(1, 2, marked(2));
  rogue->lane->submit(1, 3, marked(3));
  honest->lane->submit(0, 4, marked(4));
  gated.gate.open();
  EXPECT_TRUE(honest->lane->wait().has_value());
  ASSERT_TRUE(serving.wait_for_violation());
  EXPECT_THAT(serving.violations()[0].second, HasSubstr("slot 1 was submitted again"));
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_THAT(gated.ran(), ElementsAre(1, 4));
  EXPECT_TRUE(serving.scheduler().is_idle());
}

TEST(Scheduler, reads_an_entry_once_and_never_looks_again) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  // Everything the client wrote changes while the request runs.
  std::memset(client->lane->input(0).data(), 0xFF, client->lane->input(0).size());
  gated.gate.open();
  const std::optional<TestAnswer> answer = client->lane->wait();
  ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(1));
}

// --- ends ---

TEST(Scheduler, lets_a_request_end_whose_client_vanished_and_drops_the_others) {
  Serving serving;
  GatedModel gated(serving);
  auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(1, 2, marked(2));
  const GoneNotice::Flag gone = serving.scheduler().find_channel(client->channel_id)->gone_flag();
  serving.scheduler().close_channel(client->channel_id);
  client = nullptr;
  EXPECT_FALSE(gone->load()) << "memory of the running request is gone";
  gated.gate.open();
  while (!gone->load()) std::this_thread::yield();
  EXPECT_THAT(gated.ran(), ElementsAre(1));
  EXPECT_TRUE(serving.scheduler().is_idle());
}

TEST(Scheduler, answers_queued_requests_of_a_lane_that_is_closed) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  const auto other = serving.connect(gated.model, 4);
  other->lane->submit(0, 9, marked(9));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(0, 1, marked(1));
  other->lane->submit(1, 10, marked(10));
  gated.gate.open_once();
  ASSERT_TRUE(gated.gate.wait_for_visitors(2));  // now everything was taken
  const std::shared_ptr<Lane> lane = serving.scheduler().find_lane(client->channel_id, 1);
  serving.scheduler().close_lane(*lane);
  gated.gate.open();
  wait_for_answers(*other->lane, 2);
  EXPECT_EQ(client->lane->worker_header().closed.load(), 1u);
  const std::vector<std::int64_t> ran = gated.ran();
  const std::optional<TestAnswer> answer = client->lane->poll();
  if (std::find(ran.begin(), ran.end(), 1) == ran.end()) {
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status(), StatusCode::kCancelled);
  }
}

TEST(Scheduler, finishes_what_was_submitted_before_an_unload_and_refuses_the_rest) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(1, 2, marked(2));
  const auto lanes = serving.scheduler().begin_unload(*gated.model);
  ASSERT_EQ(lanes.size(), 1u);
  client->lane->submit(2, 3, marked(3));
  EXPECT_FALSE(serving.scheduler().retire_if_idle(*lanes[0]));
  gated.gate.open();
  wait_for_answers(*client->lane, 2);
  while (!serving.scheduler().retire_if_idle(*lanes[0])) std::this_thread::yield();
  const std::optional<TestAnswer> rest = client->lane->wait();
  ASSERT_TRUE(rest.has_value());
  EXPECT_EQ(rest->entry.user_data, 3u);
  EXPECT_EQ(rest->status(), StatusCode::kUnavailable);
  EXPECT_THAT(rest->message, HasSubstr("model 'm' is being unloaded"));
  EXPECT_EQ(client->lane->worker_header().closed.load(), 1u);
  EXPECT_THAT(gated.ran(), ElementsAre(1, 2));
}

TEST(Scheduler, finishes_what_was_submitted_before_a_drain_and_takes_nothing_more) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(1, 2, marked(2));
  serving.scheduler().drain();
  client->lane->submit(2, 3, marked(3));
  EXPECT_FALSE(serving.scheduler().is_idle());
  gated.gate.open();
  wait_for_answers(*client->lane, 2);
  while (!serving.scheduler().is_idle()) std::this_thread::yield();
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_THAT(gated.ran(), ElementsAre(1, 2));
  EXPECT_FALSE(client->lane->poll().has_value());
}

TEST(Scheduler, tells_the_control_thread_when_the_last_request_of_a_drain_has_ended) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  serving.scheduler().drain();
  serving.control().drain();
  gated.gate.open();
  pollfd waiting{serving.control().fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 30'000), 1);
  EXPECT_TRUE(serving.scheduler().is_idle());
}

TEST(Scheduler, has_deadlines_watched_while_every_executor_is_busy) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  SubmissionEntry entry{};
  entry.deadline_ns = monotonic_ns() + 60'000'000'000;
  // One entry is picked while another with a deadline is queued.
  for (std::uint32_t slot = 0; slot < 2; ++slot) {
    testing::write_inputs(client->lane->input(slot), std::span(&kInput, 1));
    entry.slot = slot;
    entry.user_data = slot;
    entry.tensor_count = 1;
    if (slot == 1) entry.deadline_ns = monotonic_ns() + 1'000'000;
    client->lane->put(entry);
  }
  client->lane->publish();
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  pollfd waiting{serving.control().fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 30'000), 1) << "nobody told the control thread";
  while (serving.scheduler().expire_deadlines().has_value()) std::this_thread::yield();
  const std::optional<TestAnswer> answer = client->lane->wait();
  EXPECT_EQ(answer->entry.user_data, 1u);
  EXPECT_EQ(answer->status(), StatusCode::kDeadlineExceeded);
  gated.gate.open();
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
}

TEST(Scheduler, answers_queued_requests_of_a_session_that_is_closed) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  auto flag = std::make_shared<std::atomic<bool>>(false);
  ASSERT_TRUE(serving.scheduler().add_session(
      std::make_shared<Session>(GoneNotice(flag, nullptr), client->channel_id, 7, gated.model,
                                nullptr, std::vector<TensorView>{})));
  client->lane->submit(0, 0, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  SubmissionEntry entry{};
  entry.session_handle = 7;
  entry.deadline_ns = monotonic_ns() + 60'000'000'000;
  client->lane->submit(1, 1, marked(2), entry);
  client->lane->submit(2, 2, marked(3), entry);
  client->lane->submit(3, 3, marked(4));
  gated.gate.open_once();
  // Either both were answered by the executor or are queued behind it.
  ASSERT_TRUE(serving.scheduler().remove_session(client->channel_id, 7) != nullptr);
  EXPECT_EQ(serving.scheduler().remove_session(client->channel_id, 7), nullptr);
  gated.gate.open();
  std::map<std::uint64_t, StatusCode> answers;
  for (int i = 0; i < 4; ++i) {
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_TRUE(answer.has_value());
    answers[answer->entry.user_data] = answer->status();
  }
  EXPECT_EQ(answers[0], StatusCode::kOk);
  EXPECT_NE(answers[1], StatusCode::kOk);
  EXPECT_NE(answers[2], StatusCode::kOk);
  EXPECT_EQ(answers[3], StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_TRUE(flag->load()) << "the session's memory is still held";
}

}  // namespace
}  // namespace bucketd
