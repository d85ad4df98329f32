// Sessions when something ended: the worker, the daemon, the connection, the session itself.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "libclient/testing/session_client.h"

namespace bucketd::testing {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionRecoveryTest : public SessionTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, SessionRecoveryTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(SessionRecoveryTest, goes_on_with_the_next_worker_where_it_was_not_executing) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  EXPECT_TRUE(mark(session, 2).ok());
  // Opened once; requests ask the supervisor nothing.
  EXPECT_THAT(daemon.session_messages(), ElementsAre("OpenSession"));
  daemon.kill_worker(Executing::kNothing);
  EXPECT_TRUE(mark(session, 3).ok());
  EXPECT_TRUE(mark(session, 4).ok());
  EXPECT_THAT(daemon.session_messages(), ElementsAre("OpenSession", "OpenSession"));
  EXPECT_TRUE(has_log(session, {1, 2, 3, 4}));
}

TEST_P(SessionRecoveryTest, request_that_was_filled_before_the_workers_end_goes_to_the_next) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1, 5).ok());
  Request filled = get(marked_request(session, 2, 5));
  daemon.kill_worker(Executing::kNothing);
  EXPECT_TRUE(is_echo_of(get(std::move(filled).run()), 2, 5));
  EXPECT_TRUE(has_log(session, {1, 2}));
}

TEST_P(SessionRecoveryTest, torn_session_says_so_until_it_is_reset) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  Session other = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  daemon.hold_answers();
  Future executing = get(get(marked_request(session, 2)).submit());
  daemon.wait_for_submissions(2);
  Future waiting = get(get(marked_request(other, 3)).submit());
  daemon.wait_for_submissions(3);
  daemon.kill_worker(Executing::kFirst);
  daemon.release_answers();
  EXPECT_EQ(status_of(executing.wait(patience())).code(), StatusCode::kAborted);
  EXPECT_EQ(status_of(waiting.wait(patience())).code(), StatusCode::kUnavailable);
  for (const Status& status :
       {mark(session, 4), session.truncate(1), session.checkpoint(), status_of(session.fork())}) {
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr("is torn"));
  }
  EXPECT_TRUE(has_log(session, {1}));  // reading is allowed
  EXPECT_TRUE(mark(other, 5).ok());
  EXPECT_TRUE(session.reset().ok());
  EXPECT_TRUE(mark(session, 6).ok());
  EXPECT_TRUE(has_log(session, {6}));
  EXPECT_TRUE(has_log(other, {5}));
}

TEST_P(SessionRecoveryTest, torn_session_is_healed_by_its_checkpoint) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  EXPECT_TRUE(session.checkpoint().ok());
  daemon.hold_answers();
  Future executing = get(get(marked_request(session, 2)).submit());
  daemon.wait_for_submissions(2);
  daemon.kill_worker(Executing::kAll);
  daemon.release_answers();
  EXPECT_EQ(status_of(executing.wait(patience())).code(), StatusCode::kAborted);
  EXPECT_TRUE(session.restore().ok());
  EXPECT_TRUE(mark(session, 3).ok());
  EXPECT_TRUE(has_log(session, {1, 3}));
}

TEST_P(SessionRecoveryTest, torn_session_whose_client_is_gone_is_mended_by_its_id) {
  std::string id;
  {
    Client client = connect();
    Model model = open_model(client);
    Session session = get(model.open_session());
    id = session.id();
    EXPECT_TRUE(mark(session, 1).ok());
    EXPECT_TRUE(session.checkpoint().ok());
    daemon.hold_answers();
    Future executing = get(get(marked_request(session, 2)).submit());
    daemon.wait_for_submissions(2);
    daemon.kill_worker(Executing::kAll);
    daemon.release_answers();
    EXPECT_EQ(status_of(executing.wait(patience())).code(), StatusCode::kAborted);
    daemon.end_connections();
  }
  Client client = connect();
  Model model = open_model(client);
  EXPECT_THAT(status_of(model.resume_session(id)).message(), HasSubstr("is torn"));
  EXPECT_TRUE(client.restore_session(id).ok());
  {
    Session session = get(model.resume_session(id));
    EXPECT_TRUE(has_log(session, {1}));
    EXPECT_TRUE(session.keep().ok());
  }
  EXPECT_TRUE(client.reset_session(id).ok());
  Session session = get(model.resume_session(id));
  EXPECT_TRUE(has_log(session, {}));
  EXPECT_EQ(client.reset_session("unknown").code(), StatusCode::kNotFound);
}

TEST_P(SessionRecoveryTest, an_operation_that_waits_hears_of_the_workers_end) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.hold_answers();
  Future executing = get(get(marked_request(session, 1)).submit());
  daemon.wait_for_submissions(1);
  std::thread operation(
      [&] { EXPECT_EQ(session.checkpoint(patience()).code(), StatusCode::kFailedPrecondition); });
  daemon.kill_worker(Executing::kAll);
  operation.join();
  EXPECT_EQ(status_of(executing.wait(patience())).code(), StatusCode::kAborted);
}

TEST_P(SessionRecoveryTest, session_that_ended_elsewhere_answers_with_the_supervisors_reason) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  const Status evicted(StatusCode::kResourceExhausted, "session was evicted: all memory is used");
  daemon.hold_answers();
  Future future = get(get(marked_request(session, 1)).submit());
  daemon.wait_for_submissions(1);
  daemon.end_session(session.id(), evicted);
  daemon.release_answers();
  // The worker says that it knows no such session.
  EXPECT_EQ(status_of(future.wait(patience())), evicted);
  EXPECT_EQ(mark(session, 2), evicted);
  EXPECT_EQ(session.checkpoint(), evicted);
  EXPECT_EQ(session.close(), evicted);
  EXPECT_EQ(session.reset(), evicted);
  EXPECT_EQ(model.free_slot_count(), 4u);
}

TEST_P(SessionRecoveryTest, request_under_an_old_handle_may_be_sent_again) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.spoil_answers([](Answer& answer) {
    Submission submission;
    submission.entry.user_data = answer.entry.user_data;
    submission.entry.slot = answer.entry.slot;
    answer = refusal(submission, Status(StatusCode::kNotFound, "no session 1"));
  });
  const Status status = mark(session, 1);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("may be sent again"));
  // Asked once for each.
  EXPECT_THAT(daemon.session_messages(), ElementsAre("OpenSession", "OpenSession"));
  daemon.spoil_answers({});
  EXPECT_TRUE(mark(session, 2).ok());
}

TEST_P(SessionRecoveryTest, session_does_not_survive_the_daemon_and_says_so) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  EXPECT_TRUE(mark(*session, 1).ok());
  daemon.stop();
  daemon.start();
  for (const Status& status : {mark(*session, 2), session->reset(), status_of(session->fork())}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_THAT(status.message(), HasSubstr("the daemon was restarted"));
  }
  Session next = get(model.open_session());
  EXPECT_TRUE(mark(next, 3).ok());
  session.reset();
  EXPECT_TRUE(mark(next, 4).ok());
  EXPECT_EQ(count_messages("CloseSession"), 0u);
}

TEST_P(SessionRecoveryTest, session_is_resumed_when_only_its_connection_ended) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  daemon.end_connections();
  EXPECT_TRUE(mark(session, 2).ok());
  EXPECT_TRUE(has_log(session, {1, 2}));
  EXPECT_EQ(daemon.connection_count(), 2u);
}

TEST_P(SessionRecoveryTest, session_is_kept_after_its_connection_ended) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  daemon.end_connections();
  EXPECT_TRUE(session.keep().ok());
  Client other = connect();
  Model others_model = open_model(other);
  Session resumed = get(others_model.resume_session(session.id()));
  EXPECT_TRUE(has_log(resumed, {1}));
}

TEST_P(SessionRecoveryTest, session_that_was_taken_over_is_not_closed_by_its_former_handle) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  const std::string id = session->id();
  daemon.end_connections();
  Client other = connect();
  Model others_model = open_model(other);
  Session resumed = get(others_model.resume_session(id));
  EXPECT_EQ(mark(*session, 1).code(), StatusCode::kFailedPrecondition);
  session.reset();
  EXPECT_TRUE(get(client.models()).size() > 0);  // whatever was posted has arrived
  EXPECT_TRUE(mark(resumed, 2).ok());
}

TEST_P(SessionRecoveryTest, sessions_wait_for_a_model_that_is_away) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.refuse_sessions(Status(StatusCode::kUnavailable, "the worker restarts"));
  const auto soon = [] { return std::chrono::steady_clock::now() + std::chrono::milliseconds(20); };
  EXPECT_EQ(status_of(model.open_session(soon())).code(), StatusCode::kUnavailable);
  // By its strict deadline it heard of the model's absence, or nothing yet.
  EXPECT_THAT(session.reset(soon()).code(),
              AnyOf(StatusCode::kUnavailable, StatusCode::kDeadlineExceeded));
  const std::size_t asked = daemon.session_messages().size();
  std::thread opening([&] { EXPECT_TRUE(model.open_session(patience()).has_value()); });
  std::thread resetting([&] { EXPECT_TRUE(session.reset(patience()).ok()); });
  daemon.wait_for_session_messages(asked + 6);
  daemon.refuse_sessions(std::nullopt);
  opening.join();
  resetting.join();
}

TEST_P(SessionRecoveryTest, operation_whose_connection_ended_may_or_may_not_have_been_done) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  EXPECT_TRUE(mark(session, 1).ok());
  daemon.spoil_sessions(SessionFault::kHangUp);
  const Status status = session.truncate(0);
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("before it said whether the operation was done"));
  daemon.spoil_sessions(SessionFault::kNone);
  EXPECT_TRUE(mark(session, 2).ok());
  EXPECT_TRUE(has_log(session, {1, 2}));
}

TEST_P(SessionRecoveryTest, session_that_was_made_too_late_is_closed) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  daemon.spoil_sessions(SessionFault::kLate);
  EXPECT_EQ(
      status_of(session.fork(std::chrono::steady_clock::now() + std::chrono::milliseconds(20)))
          .code(),
      StatusCode::kDeadlineExceeded);
  EXPECT_EQ(daemon.sessions().size(), 2u);
  daemon.answer_late_sessions();
  EXPECT_EQ(get(client.models()).size(), 2u);  // and takes in what came before that
  EXPECT_EQ(get(client.sessions()).size(), 1u);
  EXPECT_TRUE(mark(session, 1).ok());
}

TEST_P(SessionRecoveryTest, session_that_was_resumed_too_late_is_given_up_with_its_state) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  const std::string id = session.id();
  EXPECT_TRUE(session.keep().ok());
  daemon.spoil_sessions(SessionFault::kLate);
  EXPECT_EQ(status_of(model.resume_session(id, already_over())).code(),
            StatusCode::kDeadlineExceeded);
  daemon.answer_late_sessions();
  EXPECT_EQ(get(client.models()).size(), 2u);
  EXPECT_EQ(get(client.sessions()).at(0).status, SessionStatus::kIdle);
  EXPECT_TRUE(model.resume_session(id).has_value());
}

TEST_P(SessionRecoveryTest, a_forked_child_leaves_the_session_to_its_parent) {
  Client client = connect();
  Model model = open_model(client);
  std::optional<Session> session = get(model.open_session());
  EXPECT_TRUE(mark(*session, 1).ok());
  const std::string id = session->id();
  const auto in_child = [](const std::function<bool()>& body) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body() ? 0 : 1);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  };
  EXPECT_TRUE(in_child([&] {
    for (const Status& status :
         {mark(*session, 2), session->reset(), session->close(), session->keep()}) {
      if (status.code() != StatusCode::kFailedPrecondition) return false;
      if (status.message().find("before the fork") == std::string::npos) return false;
    }
    session.reset();
    return status_of(model.resume_session(id)).code() == StatusCode::kFailedPrecondition;
  }));
  EXPECT_TRUE(mark(*session, 3).ok());
  EXPECT_TRUE(session->keep().ok());
  EXPECT_TRUE(in_child([&] {
    Session resumed = get(model.resume_session(id));
    return mark(resumed, 4).ok() && resumed.keep().ok();
  }));
  Session again = get(model.resume_session(id));
  EXPECT_TRUE(has_log(again, {1, 3, 4}));
}

TEST_P(SessionRecoveryTest, threads_of_one_session_survive_restarts_of_its_worker) {
  Client client = connect();
  Model model = open_model(client);
  Session session = get(model.open_session());
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, session]() mutable {
      for (int i = 0; i < 200; ++i) {
        const Status status = mark(session, i);
        // Nothing is being executed when the worker dies; what was in flight may be sent again.
        if (status.code() == StatusCode::kUnavailable) continue;
        EXPECT_TRUE(status.ok()) << status.to_string();
        ++done;
      }
    });
  }
  for (int i = 0; i < 10; ++i) {
    daemon.wait_for_submissions(static_cast<std::size_t>(20 * (i + 1)));
    daemon.kill_worker(Executing::kNothing);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(done.load(), 0);
  EXPECT_TRUE(mark(session, 1).ok());
}

}  // namespace
}  // namespace bucketd::testing
