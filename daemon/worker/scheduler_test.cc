#include "daemon/worker/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "common/monotonic_clock.h"
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
  explicit GatedModel(Serving& owner, ModelDescription description = pad_model("m", {4}))
      : serving(owner),
        model(serving.add_model(std::move(description),
                                [this](const testing::FakeModel::Execution& execution) {
                                  enter(execution);
                                  gate.pass();
                                  const std::lock_guard lock(mutex);
                                  --at_once;
                                  return Status();
                                })) {}
  ~GatedModel() {
    gate.open();
    serving.stop();
  }
  void enter(const testing::FakeModel::Execution& execution) {
    std::int64_t first = 0;
    std::memcpy(&first, execution.inputs[0].data, sizeof(first));
    const std::lock_guard lock(mutex);
    order.push_back(first);
    executors.insert(execution.executor);
    most_at_once = std::max(most_at_once, ++at_once);
  }
  std::vector<std::int64_t> ran() {
    const std::lock_guard lock(mutex);
    return order;
  }
  Serving& serving;
  std::mutex mutex;
  std::vector<std::int64_t> order;
  std::set<std::size_t> executors;
  int at_once = 0;
  int most_at_once = 0;
  Gate gate;
  // States by session: outlive what runs, since ~GatedModel() ends that first.
  std::map<std::uint64_t, std::vector<std::byte>> states;
  std::shared_ptr<LoadedModel> model;
};

ModelDescription stateful_model() {
  ModelDescription model = pad_model("kv", {4});
  model.states = {{"cache", DType::kUint8, Shape{16}, std::nullopt}};
  model.buckets[0].states = {Shape{16}};
  return model;
}

// Binds a session of the client's connection. The flag says when it is gone.
GoneNotice::Flag add_session(Serving& serving, const Serving::Client& client, GatedModel& gated,
                             std::uint64_t handle) {
  std::vector<std::byte>& memory = gated.states[handle];
  memory.resize(16);
  auto flag = std::make_shared<std::atomic<bool>>(false);
  serving.add_session(gated.model, client.channel_id, handle,
                      {{DType::kUint8, Shape{16}, memory.data()}}, GoneNotice(flag, nullptr));
  return flag;
}

// Takes what is in the rings while every executor is busy, as the control thread does.
void take_everything(Serving& serving) {
  [[maybe_unused]] const auto next_look = serving.scheduler().expire_deadlines();
}

// There is no event for this: the ring's head is looked at.
void wait_until_taken(testing::RingClientLane& lane, std::uint64_t count) {
  while (lane.worker_header().submission_head.load() < count) std::this_thread::yield();
}

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

TEST(Scheduler, gives_a_connection_one_turn_however_many_channels_it_has) {
  Serving serving;
  GatedModel gated(serving);
  const auto greedy = serving.connect(gated.model, 4);
  const auto greedy_too = serving.connect(gated.model, 4, 8192, greedy->channel_id);
  const auto modest = serving.connect(gated.model, 4);
  greedy->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  for (std::uint32_t slot = 1; slot < 4; ++slot) greedy->lane->submit(slot, 1, marked(slot + 1));
  for (std::uint32_t slot = 0; slot < 3; ++slot)
    greedy_too->lane->submit(slot, 1, marked(50 + slot));
  for (std::uint32_t slot = 0; slot < 3; ++slot) modest->lane->submit(slot, 1, marked(100 + slot));
  gated.gate.open();
  wait_for_answers(*greedy->lane, 4);
  wait_for_answers(*greedy_too->lane, 3);
  wait_for_answers(*modest->lane, 3);
  EXPECT_THAT(gated.ran(), ElementsAre(1, 2, 100, 3, 101, 4, 102, 50, 51, 52));
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
  GatedModel gated(serving, stateful_model());
  const auto client = serving.connect(gated.model, 8);
  add_session(serving, *client, gated, 7);
  add_session(serving, *client, gated, 8);
  SubmissionEntry entry{};
  entry.session_handle = 7;
  for (std::uint32_t slot = 0; slot < 5; ++slot) {
    entry.priority = static_cast<std::uint8_t>(slot);
    client->lane->submit(slot, slot, marked(slot), entry);
  }
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  // Another session's goes past them, so that two executors are free for a second one of this.
  entry.session_handle = 8;
  client->lane->submit(5, 5, marked(5), entry);
  ASSERT_TRUE(gated.gate.wait_for_visitors(2));
  EXPECT_THAT(gated.ran(), ElementsAre(0, 5));
  gated.gate.open();
  wait_for_answers(*client->lane, 6);
  EXPECT_THAT(gated.ran(), ElementsAre(0, 5, 1, 2, 3, 4));
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_EQ(gated.states[7][0], std::byte{5});
  EXPECT_EQ(gated.most_at_once, 2) << "two requests of one session ran at the same time";
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

TEST(Scheduler, has_somebody_watch_when_a_request_that_should_be_short_is_not) {
  Serving serving({.executors = 2});
  std::atomic<bool> stops = false;
  Gate gate;
  const auto model = serving.add_model(pad_model("m", {4}), [&](const auto&) {
    if (stops.exchange(false)) gate.pass();
    return Status();
  });
  const auto client = serving.connect(model);
  const auto other = serving.connect(model);
  // Until the model counts as short: a machine under load may make one of them long.
  while (model->expected_ns.load() >= kHandOverNs) {
    client->lane->submit(0, 1, kInput);
    ASSERT_TRUE(client->lane->wait().has_value());
  }
  stops = true;
  client->lane->submit(0, 1, kInput);
  ASSERT_TRUE(gate.wait_for_visitors(1));
  other->lane->submit(0, 2, kInput);
  EXPECT_EQ(other->lane->wait()->status(), StatusCode::kOk);
  gate.open();
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
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
  client->lane->submit(0, 1, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(1, 2, marked(2));
  client->lane->submit(2, 3, marked(3));
  take_everything(serving);
  const std::shared_ptr<Lane> lane = serving.scheduler().find_lane(client->channel_id, 1);
  serving.scheduler().close_lane(*lane);
  EXPECT_EQ(client->lane->worker_header().closed.load(), 1u);
  for (const std::uint64_t expected : {2, 3}) {
    const std::optional<TestAnswer> answer = client->lane->poll();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->entry.user_data, expected);
    EXPECT_EQ(answer->status(), StatusCode::kCancelled);
  }
  EXPECT_EQ(serving.status().executors[0].failed.load(), 2u);
  gated.gate.open();
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  EXPECT_THAT(gated.ran(), ElementsAre(1));
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

// The control thread as far as deadlines go: looks when it was told, and as often as it was asked
// to.
std::optional<TestAnswer> wait_as_control_thread(Serving& serving, testing::RingClientLane& lane) {
  pollfd waiting{serving.control().fd(), POLLIN, 0};
  if (::poll(&waiting, 1, 30'000) != 1) return std::nullopt;  // nobody told it
  while (serving.scheduler().expire_deadlines()) {
    if (std::optional<TestAnswer> answer = lane.poll()) return answer;
    std::this_thread::yield();
  }
  return lane.poll();
}

SubmissionEntry with_deadline(std::uint64_t after_ns) {
  SubmissionEntry entry{};
  entry.deadline_ns = monotonic_ns() + after_ns;
  return entry;
}

TEST(Scheduler, has_deadlines_watched_of_what_comes_while_every_executor_is_busy) {
  Serving serving;
  GatedModel gated(serving);
  const auto client = serving.connect(gated.model, 4);
  client->lane->submit(0, 0, marked(1));
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  client->lane->submit(1, 1, marked(2), with_deadline(60'000'000'000));
  client->lane->submit(2, 2, marked(3), with_deadline(1'000'000));
  const std::optional<TestAnswer> answer = wait_as_control_thread(serving, *client->lane);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->entry.user_data, 2u);
  EXPECT_EQ(answer->status(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(serving.status().executors[0].failed.load(), 1u);
  gated.gate.open();
  wait_for_answers(*client->lane, 2);
  ASSERT_TRUE(serving.wait_until_idle());
  // Once more, in case that requests go on coming.
  EXPECT_NE(serving.scheduler().expire_deadlines(), std::nullopt);
  EXPECT_EQ(serving.scheduler().expire_deadlines(), std::nullopt) << "nothing is left to watch";
}

TEST(Scheduler, has_deadlines_watched_when_a_request_that_should_be_short_is_not) {
  Serving serving;
  Gate gate;
  std::atomic<bool> stops = false;
  const auto model = serving.add_model(pad_model("m", {4}), [&](const auto&) {
    if (stops.exchange(false)) gate.pass();
    return Status();
  });
  const auto client = serving.connect(model, 4);
  while (model->expected_ns.load() >= kHandOverNs) {
    client->lane->submit(0, 1, kInput);
    ASSERT_TRUE(client->lane->wait().has_value());
  }
  ASSERT_TRUE(serving.wait_until_idle());
  while (serving.scheduler().expire_deadlines()) std::this_thread::yield();
  serving.control().drain();
  stops = true;
  client->lane->submit(0, 1, kInput);
  EXPECT_TRUE(gate.wait_for_visitors(1));
  client->lane->submit(1, 2, kInput, with_deadline(1'000'000));
  const std::optional<TestAnswer> answer = wait_as_control_thread(serving, *client->lane);
  gate.open();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->entry.user_data, 2u);
  EXPECT_EQ(answer->status(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
}

TEST(Scheduler, has_deadlines_watched_of_what_waits_for_its_sessions_turn) {
  Serving serving({.executors = 2});
  GatedModel gated(serving, stateful_model());
  const auto client = serving.connect(gated.model, 4);
  add_session(serving, *client, gated, 7);
  SubmissionEntry entry{};
  entry.session_handle = 7;
  client->lane->submit(0, 0, marked(1), entry);
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  entry.deadline_ns = monotonic_ns() + 1'000'000;
  client->lane->submit(1, 1, marked(2), entry);
  const std::optional<TestAnswer> answer = wait_as_control_thread(serving, *client->lane);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->entry.user_data, 1u);
  EXPECT_EQ(answer->status(), StatusCode::kDeadlineExceeded);
}

TEST(Scheduler, answers_queued_requests_of_a_session_that_is_closed) {
  Serving serving({.executors = 2});
  GatedModel gated(serving, stateful_model());
  const auto client = serving.connect(gated.model, 4);
  const GoneNotice::Flag gone = add_session(serving, *client, gated, 7);
  SubmissionEntry entry{};
  entry.session_handle = 7;
  for (std::uint32_t slot = 0; slot < 3; ++slot) {
    client->lane->submit(slot, slot, marked(slot), entry);
  }
  ASSERT_TRUE(gated.gate.wait_for_visitors(1));
  wait_until_taken(*client->lane, 3);  // by the other executor
  EXPECT_NE(serving.scheduler().remove_session(client->channel_id, 7), nullptr);
  EXPECT_EQ(serving.scheduler().remove_session(client->channel_id, 7), nullptr);
  for (const std::uint64_t expected : {1, 2}) {
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->entry.user_data, expected);
    EXPECT_EQ(answer->status(), StatusCode::kCancelled);
  }
  EXPECT_FALSE(gone->load()) << "memory of the running request is gone";
  gated.gate.open();
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_TRUE(gone->load()) << "the session's memory is still held";
}

}  // namespace
}  // namespace bucketd
