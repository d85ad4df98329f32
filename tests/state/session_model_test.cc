// Sessions against a simple model of what they mean: thousands of operations in random order, over
// many sessions, buckets, forks and killed workers. Every answer and every byte of state is
// compared.
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGKILL

#include <cstdlib>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bucketd/session.h"
#include "tests/state/tape.h"
#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {
namespace {

constexpr std::size_t kMostSessions = 12;
constexpr int kMostPipelined = 6;

int operation_count() {
  if (std::getenv("BUCKETD_LONG") != nullptr) return 100'000;
  return kIsSanitized ? 500 : 2'000;
}

struct Subject {
  Session session;
  Tape tape;
  std::optional<Tape> checkpoint;
  std::string model;
};

class SessionModel : public ::testing::TestWithParam<Transport> {
 protected:
  int pick(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }

  std::vector<std::int64_t> numbers() {
    std::vector<std::int64_t> x(static_cast<std::size_t>(1 + pick(8)));
    for (std::int64_t& value : x) value = pick(2001) - 1000;
    return x;
  }

  Result<Future> submit(Session& session, const std::vector<std::int64_t>& x) {
    const Shape shape({1, static_cast<std::int64_t>(x.size())});
    Result<Request> request = session.new_request({shape}, {.force_raw = pick(4) == 0});
    if (!request) return error(request.error());
    request->input<std::int64_t>(0).copy_from(x);
    return std::move(*request).submit();
  }

  // Several requests of one session, one after the other without waiting.
  void run(Subject& subject) {
    std::deque<std::pair<Future, std::int64_t>> answers;
    for (int i = 1 + pick(kMostPipelined); i > 0; --i) {
      const std::vector<std::int64_t> x = numbers();
      Result<Future> future = submit(subject.session, x);
      ASSERT_TRUE(future) << future.error().to_string();
      answers.emplace_back(std::move(*future), subject.tape.run(x));
      ++requests_;
    }
    // Sometimes the session is operated on while they are under way.
    if (pick(3) == 0) operate(subject);
    for (auto& [future, expected] : answers) {
      const Result<Reply> reply = future.wait(patience());
      ASSERT_TRUE(reply) << reply.error().to_string();
      ASSERT_EQ(reply->output<std::int64_t>(0).to_vector().at(0), expected);
    }
  }

  void operate(Subject& subject) {
    switch (pick(4)) {
      case 0:
        ASSERT_EQ(subject.session.reset(), Status());
        subject.tape.reset();
        break;
      case 1: {
        const int length = pick(static_cast<int>(Tape::kPositions) + 1);
        ASSERT_EQ(subject.session.truncate(length), Status());
        subject.tape.truncate(static_cast<std::size_t>(length));
        break;
      }
      case 2:
        ASSERT_EQ(subject.session.checkpoint(), Status());
        subject.checkpoint = subject.tape;
        break;
      default:
        if (!subject.checkpoint) {
          EXPECT_EQ(subject.session.restore().code(), StatusCode::kFailedPrecondition);
          break;
        }
        ASSERT_EQ(subject.session.restore(), Status());
        subject.tape = *subject.checkpoint;
    }
  }

  void open() {
    const std::string model = pick(2) == 0 ? "tape_head" : "tape_tail";
    Result<Session> session = models_.at(model).open_session();
    ASSERT_TRUE(session) << session.error().to_string();
    subjects_.push_back({*session, Tape(model == "tape_tail"), std::nullopt, model});
  }

  void fork(std::size_t from) {
    Result<Session> session = subjects_[from].session.fork();
    ASSERT_TRUE(session) << session.error().to_string();
    ASSERT_NE(session->id(), subjects_[from].session.id());
    subjects_.push_back({*session, subjects_[from].tape, std::nullopt, subjects_[from].model});
  }

  void compare(Subject& subject) {
    for (std::size_t state = 0; state < 2; ++state) {
      const Result<std::vector<std::byte>> bytes = subject.session.read_state(state);
      ASSERT_TRUE(bytes) << bytes.error().to_string();
      ASSERT_EQ(*bytes, subject.tape.bytes(state)) << "state " << state << " of " << subject.model;
    }
  }

  // Gives the session up, and takes it up again on another connection.
  void move(Subject& subject) {
    const std::string id = subject.session.id();
    ASSERT_EQ(subject.session.keep(), Status());
    Model model = daemon_.open(subject.model, GetParam());
    Result<Session> session = model.resume_session(id);
    ASSERT_TRUE(session) << session.error().to_string();
    ASSERT_EQ(session->id(), id);
    subject.session = *session;
  }

  void kill_worker(Client& client) {
    const Result<DaemonStatus> before = client.status();
    ASSERT_TRUE(before) << before.error().to_string();
    const WorkerReport& worker = before->workers.at(0);
    ASSERT_EQ(::kill(worker.pid, SIGKILL), 0);
    ASSERT_TRUE(eventually([&] {
      const Result<DaemonStatus> now = client.status();
      return now && now->workers.at(0).restarts > worker.restarts &&
             now->workers.at(0).state == WorkerState::kServing;
    }));
    ++kills_;
    mend_torn(client);
  }

  // An executor is done with a request only after it has answered it. Killed in between, it leaves
  // the session torn although its answer was had: at most one for each executor.
  void mend_torn(Client& client) {
    const Result<std::vector<SessionSummary>> sessions = client.sessions();
    ASSERT_TRUE(sessions) << sessions.error().to_string();
    std::size_t torn = 0;
    for (const SessionSummary& summary : *sessions) {
      if (summary.status != SessionStatus::kTorn) continue;
      ++torn;
      for (Subject& subject : subjects_) {
        if (subject.session.id() != summary.id) continue;
        ASSERT_EQ(subject.session.reset(), Status());
        subject.tape.reset();
      }
    }
    EXPECT_LE(torn, 2u) << "more than were executing";
  }

  // A worker that is killed while it executes something is charged to whom it executes it for.
  static nlohmann::json configuration() {
    nlohmann::json config = TestDaemon::serving({"tape_head", "tape_tail"});
    config["crash"] = {{"deaths_per_client", 100'000}};
    return config;
  }

  TestDaemon daemon_{configuration()};
  std::mt19937 random_{20260801};
  std::map<std::string, Model> models_;
  std::vector<Subject> subjects_;
  std::size_t requests_ = 0;
  int kills_ = 0;
};

TEST_P(SessionModel, agrees_with_the_daemon_in_every_answer_and_every_byte) {
  ASSERT_TRUE(daemon_.start());
  Client client = daemon_.connect({.transport = GetParam()});
  for (const char* name : {"tape_head", "tape_tail"}) models_.emplace(name, *client.open(name));
  const int operations = operation_count();
  for (int i = 0; i < operations && !HasFailure(); ++i) {
    SCOPED_TRACE("operation " + std::to_string(i));
    if (subjects_.empty() || (subjects_.size() < kMostSessions && pick(20) == 0)) open();
    const auto at = static_cast<std::size_t>(pick(static_cast<int>(subjects_.size())));
    const int kind = pick(1000);
    if (kind < 600) {
      run(subjects_[at]);
    } else if (kind < 800) {
      operate(subjects_[at]);
    } else if (kind < 880) {
      compare(subjects_[at]);
    } else if (kind < 920 && subjects_.size() < kMostSessions) {
      fork(at);
    } else if (kind < 950) {
      ASSERT_EQ(subjects_[at].session.close(), Status());
      subjects_.erase(subjects_.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (kind < 990 || kills_ >= 1 + i / 500) {
      move(subjects_[at]);
    } else {
      kill_worker(client);
    }
  }
  for (Subject& subject : subjects_) {
    compare(subject);
    EXPECT_EQ(subject.session.close(), Status());
  }
  const Result<DaemonStatus> status = client.status();
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(status->sessions, 0u);
  EXPECT_EQ(status->workers.at(0).state_bytes_copied, 0u) << "a slice was no view";
  EXPECT_GT(kills_, 0);
  EXPECT_GT(requests_, static_cast<std::size_t>(operations));
  daemon_.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, SessionModel,
                         ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace
}  // namespace bucketd::test
