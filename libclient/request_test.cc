#include <gmock/gmock.h>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;

class RequestTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, RequestTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(RequestTest, comes_back_as_it_was_sent) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 100, 5));
  EXPECT_TRUE(echoes(model, 100, 8));
  EXPECT_TRUE(echoes(model, 100, 9));
  EXPECT_TRUE(echoes(model, 100, 16));
  EXPECT_TRUE(echoes(model, 100, 1));
}

TEST_P(RequestTest, second_of_a_signature_is_laid_out_padded) {
  Client client = connect();
  Model model = get(client.open("echo"));
  Request first = get(echo_request(model, 10, 5));
  EXPECT_FALSE(first.is_padded());
  EXPECT_TRUE(first.input<std::int64_t>(0).is_contiguous());
  get(std::move(first).run());

  Request second = get(echo_request(model, 20, 5));
  EXPECT_TRUE(second.is_padded());
  const Reply reply = get(std::move(second).run());
  EXPECT_TRUE(is_echo_of(reply, 20, 5));
  EXPECT_EQ(reply.bucket(), 0u);

  RequestOptions raw;
  raw.force_raw = true;
  EXPECT_FALSE(get(echo_request(model, 20, 5, raw)).is_padded());
  EXPECT_FALSE(get(echo_request(model, 20, 6)).is_padded());

  const std::vector<SubmissionEntry> submissions = daemon.submissions();
  ASSERT_EQ(submissions.size(), 2u);
  EXPECT_EQ(submissions[0].kind, static_cast<std::uint8_t>(SubmissionKind::kRaw));
  EXPECT_EQ(submissions[0].plan_id, 0u);
  EXPECT_EQ(submissions[1].kind, static_cast<std::uint8_t>(SubmissionKind::kPadded));
  EXPECT_EQ(submissions[1].plan_id, 1u);
}

TEST_P(RequestTest, padding_is_whole_whatever_used_the_slot_before) {
  Client client = connect();
  Model model = get(client.open("echo"));
  // Every size twice in a row, so that padded and raw layouts of different sizes follow each other
  // in the same slot.
  for (int round = 0; round < 3; ++round) {
    for (std::int64_t size = 1; size <= kLargeBucket; ++size) {
      EXPECT_TRUE(echoes(model, 1000 * round, size)) << "size " << size;
      EXPECT_TRUE(echoes(model, 1000 * round + 500, size)) << "size " << size;
    }
  }
}

TEST_P(RequestTest, times_and_bucket_come_with_the_reply) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const Reply reply = get(get(echo_request(model, 1, 9)).run());
  EXPECT_EQ(reply.output_count(), 2u);
  EXPECT_EQ(reply.bucket(), 1u);
  EXPECT_EQ(reply.queue_time(), std::chrono::nanoseconds(1000));
  EXPECT_EQ(reply.execute_time(), std::chrono::nanoseconds(2000));
}

TEST_P(RequestTest, what_was_moved_from_answers_with_an_error) {
  Client client = connect();
  Model model = get(client.open("echo"));
  Request request = get(echo_request(model, 1, 3));
  Future future = get(std::move(request).submit());
  EXPECT_EQ(status_of(std::move(request).submit()).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status_of(std::move(request).run()).code(), StatusCode::kFailedPrecondition);
  get(future.wait(patience()));
  EXPECT_EQ(status_of(future.wait(patience())).code(), StatusCode::kFailedPrecondition);
}

TEST_P(RequestTest, many_in_flight_are_answered_in_any_order) {
  Client client = connect();
  Model model = get(client.open("echo"));
  ASSERT_EQ(model.slot_count(), 4u);
  daemon.hold_answers();
  std::vector<Future> futures;
  for (std::int64_t i = 0; i < 4; ++i) {
    futures.push_back(get(get(echo_request(model, 100 * i, 3 + i)).submit()));
  }
  daemon.wait_for_submissions(4);
  for (Future& future : futures) EXPECT_FALSE(future.ready());
  daemon.release_answers(/*newest_first=*/true);
  for (std::int64_t i = 0; i < 4; ++i) {
    const Reply reply = get(futures[static_cast<std::size_t>(i)].wait(patience()));
    EXPECT_TRUE(is_echo_of(reply, 100 * i, 3 + i));
  }
}

TEST_P(RequestTest, slots_come_back_and_run_out) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_EQ(model.free_slot_count(), 4u);
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) requests.push_back(get(echo_request(model, 1, 3)));
  EXPECT_EQ(model.free_slot_count(), 0u);

  RequestOptions do_not_wait;
  do_not_wait.wait_until = already_over();
  const Status none = status_of(echo_request(model, 1, 3, do_not_wait));
  EXPECT_EQ(none.code(), StatusCode::kWouldBlock);
  EXPECT_THAT(none.message(), HasSubstr("model 'echo': all 4 slots"));

  RequestOptions short_wait;
  short_wait.wait_until = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  EXPECT_EQ(status_of(echo_request(model, 1, 3, short_wait)).code(), StatusCode::kDeadlineExceeded);

  requests.pop_back();
  EXPECT_EQ(model.free_slot_count(), 1u);
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_EQ(model.free_slot_count(), 1u);
}

TEST_P(RequestTest, reply_holds_its_slot) {
  Client client = connect();
  Model model = get(client.open("echo"));
  {
    const Reply first = get(get(echo_request(model, 5, 3)).run());
    EXPECT_EQ(model.free_slot_count(), 3u);
    EXPECT_TRUE(echoes(model, 50, 3));
    EXPECT_TRUE(is_echo_of(first, 5, 3));
  }
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(RequestTest, deadline_leaves_the_future_to_be_waited_for_again) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 5, 3)).submit());
  const Status late =
      status_of(future.wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(20)));
  EXPECT_EQ(late.code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(), HasSubstr("model 'echo'"));
  daemon.wait_for_submissions(1);
  daemon.release_answers();
  EXPECT_TRUE(is_echo_of(get(future.wait(patience())), 5, 3));
}

TEST_P(RequestTest, deadline_and_priority_reach_the_worker) {
  Client client = connect();
  Model model = get(client.open("echo"));
  Request request = get(echo_request(model, 5, 3));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  request.set_deadline(deadline);
  request.set_priority(9);
  get(std::move(request).run());
  const SubmissionEntry entry = daemon.submissions().at(0);
  EXPECT_EQ(entry.deadline_ns, static_cast<std::uint64_t>(deadline.time_since_epoch().count()));
  EXPECT_EQ(entry.priority, 9);
}

TEST_P(RequestTest, run_gives_up_at_its_deadline_and_the_slot_comes_back_later) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Request request = get(echo_request(model, 5, 3));
  request.set_deadline(std::chrono::steady_clock::now() + std::chrono::milliseconds(20));
  EXPECT_EQ(status_of(std::move(request).run()).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(model.free_slot_count(), 3u);
  daemon.wait_for_submissions(1);
  daemon.release_answers();
  // Four at once need the abandoned slot.
  std::vector<Request> all;
  for (int i = 0; i < 4; ++i) all.push_back(get(echo_request(model, 1, 3)));
}

TEST_P(RequestTest, abandoned_futures_do_not_disturb_others) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  { const Future abandoned = get(get(echo_request(model, 1, 3)).submit()); }
  Future kept = get(get(echo_request(model, 2, 3)).submit());
  daemon.wait_for_submissions(2);
  daemon.release_answers();
  EXPECT_TRUE(is_echo_of(get(kept.wait(patience())), 2, 3));
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(RequestTest, wrong_inputs_are_refused_before_anything_is_sent) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const Status oversize = status_of(model.new_request({{1, 17}, {1, 17}}));
  EXPECT_EQ(oversize.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(oversize.message(),
            "model 'echo', input 0 'ids', dimension 1: size 17 is above the largest bucket's 16");
  EXPECT_EQ(status_of(model.new_request({{1, 4}})).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of(model.new_request({{1, 4}, {1, 4}, {1, 4}})).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of(model.new_request({{4}, {1, 4}})).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of(model.new_request({{1, 0}, {1, 4}})).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(model.free_slot_count(), 4u);
  EXPECT_TRUE(daemon.submissions().empty());
}

TEST_P(RequestTest, unchecked_inputs_are_the_workers_to_refuse) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const std::vector<TensorSignature> wrong{{DType::kFloat32, {1, 4}}, {DType::kFloat32, {1, 4}}};
  const Status status = status_of(get(model.new_unchecked_request(wrong)).run());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "model 'echo', input 0 'ids': dtype float32 where int64 is expected");
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(RequestTest, what_a_slot_cannot_hold_is_refused_with_the_limit) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const std::vector<TensorSignature> large{{DType::kInt64, {1, 1000}}};
  const Status status = status_of(model.new_unchecked_request(large));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("model 'echo'"));
  EXPECT_THAT(status.message(), HasSubstr("8128 bytes"));
  EXPECT_THAT(status.message(), HasSubstr("4096"));
  const std::vector<TensorSignature> absurd{
      {DType::kInt64, {std::int64_t{1} << 40, std::int64_t{1} << 40}}};
  EXPECT_EQ(status_of(model.new_unchecked_request(absurd)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(RequestTest, empty_and_scalar_inputs_can_be_laid_out) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const std::vector<TensorSignature> odd{{DType::kInt64, {0, 1000000}}, {DType::kFloat32, {}}};
  Request request = get(model.new_unchecked_request(odd));
  EXPECT_EQ(request.input<std::int64_t>(0).size(), 0u);
  request.input<float>(1)() = 3.5F;
  EXPECT_EQ(status_of(std::move(request).run()).code(), StatusCode::kInvalidArgument);
}

TEST_P(RequestTest, two_models_of_a_worker_are_used_at_once) {
  daemon.add_model(echo_model("other"));
  Client client = connect();
  Model echo = get(client.open("echo"));
  Model other = get(client.open("other"));
  daemon.hold_answers();
  Future first = get(get(echo_request(echo, 1, 3)).submit());
  Future second = get(get(echo_request(other, 2, 9)).submit());
  daemon.wait_for_submissions(2);
  daemon.release_answers(/*newest_first=*/true);
  EXPECT_TRUE(is_echo_of(get(first.wait(patience())), 1, 3));
  EXPECT_TRUE(is_echo_of(get(second.wait(patience())), 2, 9));
}

TEST_P(RequestTest, replies_outlive_client_and_model) {
  auto client = std::make_unique<Client>(connect());
  auto model = std::make_unique<Model>(get(client->open("echo")));
  const Reply reply = get(get(echo_request(*model, 7, 4)).run());
  model.reset();
  client.reset();
  EXPECT_TRUE(is_echo_of(reply, 7, 4));
}

TEST_P(RequestTest, future_outlives_client_and_model) {
  daemon.hold_answers();
  std::optional<Future> future;
  {
    Client client = connect();
    Model model = get(client.open("echo"));
    future = get(get(echo_request(model, 7, 4)).submit());
  }
  daemon.wait_for_submissions(1);
  daemon.release_answers();
  EXPECT_TRUE(is_echo_of(get(future->wait(patience())), 7, 4));
}

TEST_P(RequestTest, destroyed_model_closes_its_lane) {
  Client client = connect();
  { Model model = get(client.open("echo")); }
  daemon.wait_for_closed_lanes(1);
  Model again = get(client.open("echo"));
  EXPECT_TRUE(echoes(again, 3, 3));
}

// The worker's ways of sleeping: futex is everybody's default above.
class WakeupTest : public ::testing::TestWithParam<Wakeup> {};
INSTANTIATE_TEST_SUITE_P(Wakeups, WakeupTest, ::testing::Values(Wakeup::kNone, Wakeup::kSocket));

TEST_P(WakeupTest, worker_is_reached_however_it_sleeps) {
  FakeDaemonOptions options;
  options.wakeup = GetParam();
  FakeDaemon daemon(options);
  daemon.start();
  Client client = get(Client::connect(options_for(daemon)));
  Model model = get(client.open("echo"));
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(echoes(model, i, 1 + i % kLargeBucket));
}

TEST(SpinTest, a_spinning_client_gets_the_same_answers) {
  FakeDaemon daemon;
  daemon.start();
  ClientOptions options = options_for(daemon);
  options.spin_us = 50;
  Client client = get(Client::connect(options));
  Model model = get(client.open("echo"));
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(echoes(model, i, 1 + i % kLargeBucket));
}

}  // namespace
}  // namespace bucketd::testing
