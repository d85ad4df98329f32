// What a session tells when it is not there any more, what a death of its worker does to it, and
// what is left when it is closed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "bucketd/session.h"
#include "tests/state/tape.h"
#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// One request of `values` float32 [1, 8].
Result<float> add(Session& session, float value) {
  Result<Request> request = session.new_request({Shape({1, 8})});
  if (!request) return error(request.error());
  request->input<float>(0).copy_from(std::vector<float>(8, value));
  Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());
  return reply->output<float>(0).to_vector().at(0);
}

Result<std::int64_t> play(Session& session, const std::vector<std::int64_t>& x) {
  Result<Request> request = session.new_request({Shape({1, static_cast<std::int64_t>(x.size())})});
  if (!request) return error(request.error());
  request->input<std::int64_t>(0).copy_from(x);
  Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());
  return reply->output<std::int64_t>(0).to_vector().at(0);
}

class Sessions : public ::testing::TestWithParam<Transport> {
 protected:
  Model open(TestDaemon& daemon, const std::string& model) {
    return daemon.open(model, GetParam());
  }
};

TEST_P(Sessions, tell_what_became_of_them) {
  TestDaemon daemon(TestDaemon::serving({"tape_head", "tape_tail", "multi"}));
  ASSERT_TRUE(daemon.start());
  Model model = open(daemon, "tape_head");
  Session session = *model.open_session();
  EXPECT_EQ(session.id().size(), 32u);

  const Status unknown = model.resume_session(std::string(32, '0')).error();
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound) << unknown.to_string();
  EXPECT_EQ(model.resume_session("not an id").error().code(), unknown.code());

  const Status in_use = open(daemon, "tape_head").resume_session(session.id()).error();
  EXPECT_EQ(in_use.code(), StatusCode::kFailedPrecondition) << in_use.to_string();

  const Status other_model = open(daemon, "tape_tail").resume_session(session.id()).error();
  EXPECT_EQ(other_model.code(), StatusCode::kInvalidArgument) << other_model.to_string();
  EXPECT_THAT(other_model.message(), AllOf(HasSubstr("tape_head"), HasSubstr("tape_tail")));

  const Status stateless = open(daemon, "multi").open_session().error();
  EXPECT_EQ(stateless.code(), StatusCode::kFailedPrecondition) << stateless.to_string();

  EXPECT_EQ(session.close(), Status());
  const Status closed = model.resume_session(session.id()).error();
  EXPECT_EQ(closed.code(), StatusCode::kNotFound) << closed.to_string();
  EXPECT_NE(closed.message(), unknown.message());
  EXPECT_THAT(closed.message(), HasSubstr("closed"));
  EXPECT_FALSE(play(session, {1})) << "a closed session answers";
  daemon.expect_clean_stop();
}

TEST_P(Sessions, begin_with_the_initial_values_whatever_the_one_before_left) {
  TestDaemon daemon(TestDaemon::serving({"tape_tail"}));
  ASSERT_TRUE(daemon.start());
  Model model = open(daemon, "tape_tail");
  for (int i = 0; i < 20; ++i) {
    Session session = *model.open_session();
    Tape tape(/*is_tail=*/true);
    for (std::size_t state = 0; state < 2; ++state) {
      EXPECT_EQ(session.read_state(state), tape.bytes(state));
    }
    EXPECT_EQ(play(session, {i, 1000 - i, 7, 7, 7}), tape.run({i, 1000 - i, 7, 7, 7}));
    EXPECT_EQ(session.close(), Status());
  }
  daemon.expect_clean_stop();
}

TEST_P(Sessions, end_after_a_while_without_use) {
  nlohmann::json config = TestDaemon::serving({"tape_head"});
  config["sessions"] = {{"idle_timeout_ms", 200}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model model = *client.open("tape_head");
  Session kept = *model.open_session();
  Session used = *model.open_session();
  EXPECT_EQ(kept.keep(), Status());
  ASSERT_TRUE(eventually([&] {
    const auto sessions = client.sessions();
    return sessions && sessions->size() == 1;
  }));
  const Status expired = model.resume_session(kept.id()).error();
  EXPECT_EQ(expired.code(), StatusCode::kNotFound) << expired.to_string();
  EXPECT_THAT(expired.message(), HasSubstr("without use"));
  EXPECT_TRUE(play(used, {1})) << "one that somebody has open does not expire";
  daemon.expect_clean_stop();
}

TEST_P(Sessions, are_refused_beyond_the_limit_or_take_the_place_of_the_longest_idle) {
  for (const bool evicts : {false, true}) {
    SCOPED_TRACE(evicts ? "evict_longest_idle" : "refuse");
    nlohmann::json config = TestDaemon::serving({"tape_head"});
    config["sessions"] = {{"per_user", 2}, {"when_full", evicts ? "evict_longest_idle" : "refuse"}};
    TestDaemon daemon(config);
    ASSERT_TRUE(daemon.start());
    Model model = open(daemon, "tape_head");
    Session first = *model.open_session();
    Session second = *model.open_session();
    // Both are in use: nothing can be evicted.
    const Status full = model.open_session().error();
    EXPECT_EQ(full.code(), StatusCode::kResourceExhausted) << full.to_string();
    EXPECT_THAT(full.message(), HasSubstr("2"));
    EXPECT_EQ(first.keep(), Status());
    EXPECT_EQ(model.open_session().has_value(), evicts);
    const Result<Session> again = model.resume_session(first.id());
    EXPECT_EQ(again.has_value(), !evicts);
    if (!again) {
      EXPECT_EQ(again.error().code(), StatusCode::kResourceExhausted) << again.error().to_string();
      EXPECT_THAT(again.error().message(), HasSubstr("evicted"));
    }
    daemon.expect_clean_stop();
  }
}

TEST_P(Sessions, are_torn_when_their_worker_dies_over_them_and_the_others_go_on) {
  expect_models_to_crash();
  nlohmann::json config;
  config["artifact_roots"] = {artifact_directory(), BUCKETD_FAILING_ARTIFACTS};
  config["workers"] = {{{"cores", 1}, {"operator_libraries", {BUCKETD_TEST_OPERATORS}}}};
  config["crash"] = {{"deaths_per_client", 10}, {"restart_delay_ms", 1}};
  config["models"] = {
      {{"name", "fragile"}, {"path", BUCKETD_FAILING_ARTIFACTS "/abort_with_state.pt"}},
      {{"name", "tape_head"}, {"path", "tape_head.pt"}}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model fragile = *client.open("fragile");
  Model tapes = *client.open("tape_head");
  Session torn = *fragile.open_session();
  Session neighbour = *fragile.open_session();
  Session other = *tapes.open_session();
  Tape tape(/*is_tail=*/false);
  EXPECT_EQ(add(torn, 3), 3.0F);
  EXPECT_EQ(torn.checkpoint(), Status());
  EXPECT_EQ(add(torn, 4), 7.0F);
  EXPECT_EQ(add(neighbour, 5), 5.0F);
  EXPECT_EQ(play(other, {1, 2, 3}), tape.run({1, 2, 3}));

  for (const bool restores : {true, false}) {
    SCOPED_TRACE(restores ? "restore" : "reset");
    const Result<float> fatal = add(torn, 666);
    ASSERT_FALSE(fatal);
    EXPECT_EQ(fatal.error().code(), StatusCode::kAborted) << fatal.error().to_string();
    const Result<float> after = add(torn, 1);
    ASSERT_FALSE(after) << "a torn session answers";
    EXPECT_EQ(after.error().code(), StatusCode::kFailedPrecondition) << after.error().to_string();
    EXPECT_THAT(after.error().message(), HasSubstr("torn"));
    // The others: bit for bit.
    EXPECT_EQ(neighbour.read_state(0)->size(), 32u);
    EXPECT_EQ(add(neighbour, 1), restores ? 6.0F : 7.0F);
    EXPECT_EQ(play(other, {4, 5, 6, 7, 8}), tape.run({4, 5, 6, 7, 8}));
    for (std::size_t state = 0; state < 2; ++state) {
      EXPECT_EQ(other.read_state(state), tape.bytes(state));
    }
    EXPECT_EQ(restores ? torn.restore() : torn.reset(), Status());
    EXPECT_EQ(add(torn, 2), restores ? 5.0F : 2.0F);
  }
  daemon.expect_clean_stop();
}

// Entries of a folder of /proc.
std::ptrdiff_t count(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder),
                       std::filesystem::directory_iterator());
}
std::ptrdiff_t map_count(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  std::ptrdiff_t memfds = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:bucketd-state") != std::string::npos) ++memfds;
  }
  return memfds;
}

std::ptrdiff_t child_count(pid_t pid) {
  const std::string text = std::to_string(pid);
  std::ifstream children("/proc/" + text + "/task/" + text + "/children");
  return std::distance(std::istream_iterator<pid_t>(children), std::istream_iterator<pid_t>());
}

// Of the process, in KiB.
std::int64_t resident_kib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6));
  }
  return 0;
}

TEST_P(Sessions, leave_nothing_when_they_are_closed) {
  const int cycles = std::getenv("BUCKETD_LONG") != nullptr ? 100'000 : 1'000;
  TestDaemon daemon(TestDaemon::serving({"tape_head"}));
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model model = *client.open("tape_head");
  const pid_t worker = client.status()->workers.at(0).pid;
  const auto cycle = [&] {
    std::vector<Session> sessions;
    for (int i = 0; i < 5; ++i) sessions.push_back(*model.open_session());
    EXPECT_TRUE(play(sessions.front(), {1, 2}));
    for (Session& session : sessions) EXPECT_EQ(session.close(), Status());
  };
  // The worker unmaps in its own time.
  const auto nothing_is_mapped = [&] { return client.status() && map_count(worker) == 0; };
  // The process that tried the artifact out has ended, and its descriptors with it.
  EXPECT_TRUE(eventually([&] { return child_count(daemon.pid()) == 1; }));
  // What became of the last ones is remembered, of 64 of a user.
  for (int i = 0; i < 20; ++i) cycle();
  EXPECT_TRUE(eventually(nothing_is_mapped));
  const std::ptrdiff_t daemon_fds = count("/proc/" + std::to_string(daemon.pid()) + "/fd");
  const std::ptrdiff_t worker_fds = count("/proc/" + std::to_string(worker) + "/fd");
  const std::int64_t daemon_kib = resident_kib(daemon.pid());
  const std::int64_t worker_kib = resident_kib(worker);
  for (int i = 0; i < cycles / 5 && !HasFailure(); ++i) cycle();
  EXPECT_EQ(client.status()->sessions, 0u);
  EXPECT_TRUE(eventually(nothing_is_mapped));
  EXPECT_EQ(count("/proc/" + std::to_string(daemon.pid()) + "/fd"), daemon_fds);
  EXPECT_EQ(count("/proc/" + std::to_string(worker) + "/fd"), worker_fds);
  EXPECT_TRUE(client.sessions()->empty());
  const std::int64_t daemon_growth_kib = resident_kib(daemon.pid()) - daemon_kib;
  const std::int64_t worker_growth_kib = resident_kib(worker) - worker_kib;
  std::cout << cycles << " sessions later the daemon holds " << daemon_growth_kib << " KiB more of "
            << daemon_kib << ", the worker " << worker_growth_kib << " of " << worker_kib << "\n";
  if (!kIsSanitized) {  // they keep what was freed
    // Allocators are not exact. A page left of each session would be 4 MiB, and 400 in the long
    // run.
    EXPECT_LT(daemon_growth_kib, 2048);
    EXPECT_LT(worker_growth_kib, 2048);
  }
  daemon.expect_clean_stop();
}

TEST_P(Sessions, of_scope_model_are_one_for_all_callers) {
  nlohmann::json config = TestDaemon::serving({"counter"});
  config["models"][0]["state_scope"] = "model";
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Model first = open(daemon, "counter");
  Model second = open(daemon, "counter");
  for (int i = 1; i <= 10; ++i) {
    const Result<Answer> answer = call(i % 2 == 0 ? first : second, {filled<float>({1, 8}, 1)});
    ASSERT_TRUE(answer) << answer.error().to_string();
    EXPECT_EQ(answer->outputs[0], filled<float>({1, 8}, static_cast<float>(i)));
  }
  Client client = daemon.connect({.transport = GetParam()});
  const auto sessions = client.sessions();
  ASSERT_TRUE(sessions && sessions->size() == 1);
  EXPECT_EQ(sessions->at(0).requests, 10u);
  Model model = *client.open("counter");
  {
    Session state = *model.resume_session(sessions->at(0).id);
    const Status kept = state.keep();
    EXPECT_EQ(kept.code(), StatusCode::kFailedPrecondition) << kept.to_string();
    EXPECT_THAT(kept.message(), HasSubstr("is the state of model 'counter'"));
    EXPECT_EQ(state.close().code(), StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(client.reset_session(sessions->at(0).id), Status());
  EXPECT_EQ(call(first, {filled<float>({1, 8}, 1)})->outputs[0], filled<float>({1, 8}, 1));
  daemon.expect_clean_stop();
}

TEST_P(Sessions, of_scope_model_say_that_they_are_torn_and_what_mends_them) {
  expect_models_to_crash();
  nlohmann::json config;
  config["artifact_roots"] = {BUCKETD_FAILING_ARTIFACTS};
  config["workers"] = {{{"cores", 1}, {"operator_libraries", {BUCKETD_TEST_OPERATORS}}}};
  config["crash"] = {{"deaths_per_client", 10}, {"restart_delay_ms", 1}};
  config["models"] = {{{"name", "fragile"},
                       {"path", BUCKETD_FAILING_ARTIFACTS "/abort_with_state.pt"},
                       {"state_scope", "model"}}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model model = *client.open("fragile");
  EXPECT_EQ(call(model, {filled<float>({1, 8}, 3)})->outputs[0], filled<float>({1, 8}, 3));
  EXPECT_EQ(call(model, {filled<float>({1, 8}, 666)}).error().code(), StatusCode::kAborted);
  const Status torn = call(model, {filled<float>({1, 8}, 1)}).error();
  EXPECT_EQ(torn.code(), StatusCode::kFailedPrecondition) << torn.to_string();
  EXPECT_THAT(torn.message(), HasSubstr("the state of model 'fragile' is torn"));
  const std::string id = client.sessions()->at(0).id;
  EXPECT_THAT(torn.message(), HasSubstr(id));
  EXPECT_EQ(client.reset_session(id), Status());
  EXPECT_EQ(call(model, {filled<float>({1, 8}, 4)})->outputs[0], filled<float>({1, 8}, 4));
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, Sessions,
                         ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace
}  // namespace bucketd::test
