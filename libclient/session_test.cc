// Sessions while all is well: what operations mean, in which order they come, who may do what.
#include <gmock/gmock.h>

#include <functional>
#include <thread>

#include "libclient/testing/session_client.h"

namespace bucketd::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionTest : public SessionTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, SessionTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

Deadline soon() { return std::chrono::steady_clock::now() + std::chrono::milliseconds(20); }

TEST_P(SessionTest, requests_of_a_session_change_its_state_and_no_other) {
  Client client = connect();
  Model model = open_model(client);
  Session first = get(model.open_session());
  Session second = get(model.open_session());
  EXPECT_NE(first.id(), second.id());
  EXPECT_EQ(first.id().size(), 32u);
  EXPECT_EQ(first.state_bytes(), kLogSize * sizeof(std::int64_t));
  EXPECT_TRUE(mark(first, 1).ok());
  EXPECT_TRUE(mark(second, 20).ok());
  EXPECT_TRUE(mark(first, 2).ok());
  EXPECT_TRUE(has_log(first, {1, 2}));
  EXPECT_TRUE(has_log(second, {20}));
}

TEST_P(SessionTest, answers_are_as_without_a_session) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  // The second one is laid out padded.
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(is_echo_of(get(get(marked_request(session, 5, 4)).run()), 5, 4));
  }
  EXPECT_EQ(status_of(session.new_request({{1, 17}, {1, 17}})).code(), StatusCode::kOutOfRange);
  const std::vector<TensorSignature> inputs{{DType::kInt64, {1, 17}}, {DType::kFloat32, {1, 17}}};
  Request unchecked = get(session.new_unchecked_request(inputs));
  EXPECT_EQ(unchecked.raw_input(0).shape, Shape({1, 17}));
}

TEST_P(SessionTest, reset_truncate_checkpoint_and_restore_do_what_they_say) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  for (int i = 1; i <= 4; ++i) EXPECT_TRUE(mark(session, i).ok());
  EXPECT_TRUE(session.truncate(3).ok());
  EXPECT_TRUE(has_log(session, {1, 2, 3}));
  EXPECT_TRUE(session.checkpoint().ok());
  EXPECT_TRUE(session.reset().ok());
  EXPECT_TRUE(has_log(session, {}));
  EXPECT_TRUE(mark(session, 9).ok());
  EXPECT_TRUE(session.restore().ok());
  EXPECT_TRUE(mark(session, 10).ok());
  EXPECT_TRUE(has_log(session, {1, 2, 3, 10}));
}

TEST_P(SessionTest, lengths_below_zero_are_refused_before_anything_is_sent) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_EQ(session.truncate(-1).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(session.truncate(1, -1).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(count_messages("OperateSession"), 0u);
}

TEST_P(SessionTest, the_daemons_refusals_are_passed_on) {
  Client client = connect();
  Model stateless = get(client.open("echo"));
  EXPECT_EQ(status_of(stateless.open_session()).code(), StatusCode::kFailedPrecondition);
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_EQ(session.restore().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(session.truncate(kLogSize + 1).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(status_of(session.read_state(1)).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(status_of(model.resume_session("nonsense")).code(), StatusCode::kNotFound);
  EXPECT_EQ(status_of(model.resume_session("")).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(mark(session, 1).ok());
}

TEST_P(SessionTest, an_operation_waits_for_the_requests_before_it) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  const std::vector<std::function<Status()>> operations{
      [&] { return session.reset(soon()); },
      [&] { return session.truncate(0, {}, soon()); },
      [&] { return session.checkpoint(soon()); },
      [&] { return session.restore(soon()); },
      [&] { return status_of(session.fork(soon())); },
      [&] { return status_of(session.read_state(0, soon())); }};
  daemon.hold_answers();
  Future future = get(get(marked_request(session, 1)).submit());
  daemon.wait_for_submissions(1);
  for (const auto& operation : operations) {
    const Status status = operation();
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.message(), HasSubstr("nothing was done"));
  }
  EXPECT_THAT(daemon.session_messages(), ElementsAre("OpenSession"));
  std::thread operation([&] { EXPECT_TRUE(session.reset().ok()); });
  daemon.release_answers();
  operation.join();
  // The answer was left to its future.
  EXPECT_TRUE(is_echo_of(get(future.wait(patience())), 1, 3));
  EXPECT_TRUE(has_log(session, {}));
}

TEST_P(SessionTest, an_operation_waits_for_abandoned_requests_too) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.hold_answers();
  { const Future abandoned = get(get(marked_request(session, 1)).submit()); }
  daemon.wait_for_submissions(1);
  EXPECT_EQ(session.checkpoint(soon()).code(), StatusCode::kDeadlineExceeded);
  std::thread operation([&] { EXPECT_TRUE(session.checkpoint().ok()); });
  daemon.release_answers();
  operation.join();
  EXPECT_THAT(*daemon.sessions().at(session.id()).checkpoint, ElementsAre(1));
}

TEST_P(SessionTest, an_operation_does_not_wait_for_other_sessions) {
  Client client = connect();
  Model model = open_model(client);
  Session busy = get(model.open_session());
  Session idle = get(model.open_session());
  daemon.hold_answers();
  Future future = get(get(marked_request(busy, 1)).submit());
  daemon.wait_for_submissions(1);
  EXPECT_TRUE(idle.reset().ok());
  EXPECT_TRUE(has_log(idle, {}));
  daemon.release_answers();
  EXPECT_TRUE(future.wait(patience()).has_value());
}

TEST_P(SessionTest, an_operation_does_not_wait_for_what_is_submitted_after_it) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!is_over) EXPECT_TRUE(mark(session, 7).ok());
    });
  }
  // The session is never without a request in flight.
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(session.checkpoint(patience()).ok());
  is_over = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_P(SessionTest, fork_begins_with_the_same_state_and_goes_its_own_way) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  Session forked = get(session.fork());
  EXPECT_TRUE(mark(session, 2).ok());
  EXPECT_TRUE(mark(forked, 3).ok());
  EXPECT_TRUE(has_log(session, {1, 2}));
  EXPECT_TRUE(has_log(forked, {1, 3}));
  EXPECT_TRUE(session.close().ok());
  EXPECT_TRUE(has_log(forked, {1, 3}));
}

TEST_P(SessionTest, a_state_is_read_in_pieces_that_fit_into_messages) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  EXPECT_TRUE(has_log(session, {1}));
  EXPECT_EQ(count_messages("ReadState"), 3u);
}

TEST_P(SessionTest, a_state_that_is_larger_than_the_session_is_not_believed) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.overstate_states(8);
  EXPECT_EQ(status_of(session.read_state(0)).code(), StatusCode::kInternal);
}

TEST_P(SessionTest, close_frees_the_state_and_every_handle_says_so) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  Session copy = session;
  Request filled = get(marked_request(session, 1));
  EXPECT_TRUE(session.close().ok());
  EXPECT_TRUE(daemon.sessions().empty());
  for (const Status& status :
       {mark(copy, 1), copy.reset(), copy.close(), copy.keep(), status_of(copy.fork()),
        status_of(copy.read_state(0)), status_of(std::move(filled).run())}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_THAT(status.message(), HasSubstr(session.id() + " of model 'stateful' was closed"));
  }
  EXPECT_EQ(status_of(model.resume_session(session.id())).code(), StatusCode::kNotFound);
  EXPECT_EQ(daemon.submissions().size(), 0u);
}

TEST_P(SessionTest, close_lets_what_is_in_flight_end) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.hold_answers();
  Future future = get(get(marked_request(session, 1)).submit());
  daemon.wait_for_submissions(1);
  std::thread closing([&] { EXPECT_TRUE(session.close().ok()); });
  daemon.release_answers();
  closing.join();
  EXPECT_TRUE(is_echo_of(get(future.wait(patience())), 1, 3));
}

TEST_P(SessionTest, the_last_handle_closes_the_session_without_waiting) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  { const Session copy = *session; }
  EXPECT_EQ(get(client.sessions()).size(), 1u);
  session.reset();
  EXPECT_TRUE(get(client.sessions()).empty());
  EXPECT_EQ(count_messages("CloseSession"), 1u);

  session = get(model.open_session());
  daemon.stop_answering_control();
  const auto before = std::chrono::steady_clock::now();
  session.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(5));
}

TEST_P(SessionTest, a_request_whose_session_was_destroyed_is_not_submitted) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  Request filled = get(marked_request(*session, 1));
  session.reset();
  EXPECT_EQ(status_of(std::move(filled).submit()).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(SessionTest, a_kept_session_is_resumed_by_another_client) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  const std::string id = session->id();
  EXPECT_TRUE(mark(*session, 1).ok());
  EXPECT_TRUE(session->keep().ok());
  const Status given_up = mark(*session, 2);
  EXPECT_EQ(given_up.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(given_up.message(), HasSubstr("keep()"));
  session.reset();  // closes nothing

  Client other = connect();
  Model others_model = open_model(other);
  Session resumed = get(others_model.resume_session(id));
  EXPECT_EQ(resumed.id(), id);
  EXPECT_TRUE(mark(resumed, 3).ok());
  EXPECT_TRUE(has_log(resumed, {1, 3}));
  EXPECT_EQ(status_of(model.resume_session(id)).code(), StatusCode::kFailedPrecondition);
}

TEST_P(SessionTest, a_session_that_is_open_here_is_not_resumed_a_second_time) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  const Status status = status_of(model.resume_session(session.id()));
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("open in this client already"));
  EXPECT_TRUE(mark(session, 1).ok());
  EXPECT_TRUE(session.keep().ok());
  EXPECT_TRUE(model.resume_session(session.id()).has_value());
}

TEST_P(SessionTest, requests_without_a_session_use_the_lanes_default) {
  daemon.set_default_session(77);
  Client client = connect();
  Model model = open_model(client);
  EXPECT_TRUE(echoes(model, 1, 3));
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  const std::vector<SubmissionEntry> submissions = daemon.submissions();
  EXPECT_EQ(submissions.at(0).session_handle, 77u);
  EXPECT_EQ(submissions.at(1).session_handle, daemon.sessions().at(session.id()).handle);
}

TEST_P(SessionTest, sessions_are_listed_and_closed_by_their_ids) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  EXPECT_TRUE(session.checkpoint().ok());
  bool is_complete = false;
  const std::vector<SessionSummary> listed = get(client.sessions(false, &is_complete));
  EXPECT_TRUE(is_complete);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].id, session.id());
  EXPECT_EQ(listed[0].model, "stateful");
  EXPECT_EQ(listed[0].status, SessionStatus::kOpen);
  EXPECT_EQ(listed[0].state_bytes, session.state_bytes());
  EXPECT_EQ(listed[0].requests, 1u);
  EXPECT_EQ(listed[0].age.count(), 5000);
  EXPECT_EQ(listed[0].idle.count(), 3000);
  EXPECT_TRUE(listed[0].has_checkpoint);
  {
    const Session second = get(model.open_session());
    EXPECT_EQ(get(client.sessions(false, &is_complete)).size(), 2u);
    EXPECT_FALSE(is_complete);
  }
  EXPECT_TRUE(client.close_session(session.id()).ok());
  EXPECT_TRUE(get(client.sessions(/*all_users=*/true)).empty());
  EXPECT_EQ(client.close_session(session.id()).code(), StatusCode::kNotFound);
}

TEST_P(SessionTest, status_tells_how_much_state_was_copied) {
  Client client = connect();
  const DaemonStatus status = get(client.status());
  EXPECT_EQ(status.workers.at(0).state_bytes_copied, 4096u);
  EXPECT_EQ(status.workers.at(0).state_bytes_written_back, 512u);
}

TEST_P(SessionTest, threads_share_a_session_and_each_gets_its_own_answer) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t, session]() mutable {
      for (int i = 0; i < 100; ++i) {
        const std::int64_t value = 1000 * t + i;
        const Result<Reply> reply = get(marked_request(session, value)).run();
        ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
        EXPECT_EQ(reply->output<std::int64_t>(0)(0, 0), value);
        if (i % 20 == t) {
          EXPECT_TRUE(session.checkpoint().ok());
          EXPECT_TRUE(session.fork().has_value());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(daemon.sessions().at(session.id()).log.size(), 600u);
}

}  // namespace
}  // namespace bucketd::testing
