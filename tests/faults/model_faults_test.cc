// Models that crash, hang or raise while they execute: what it costs whom.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/support/background_calls.h"
#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int kExecutionLimitMs = 500;
// "Within a second" of the crash, or of the moment that a hang is one.
constexpr auto kSoon = std::chrono::seconds(1);

Tensor trigger() { return filled<float>({1, 3}, 666); }
Tensor harmless() { return filled<float>({1, 3}, 1); }

// Worker 0: the model that fails, on one core, with innocent models beside it. Worker 1: others.
nlohmann::json two_workers(const std::string& failing) {
  expect_models_to_crash();
  nlohmann::json config;
  config["artifact_roots"] = {artifact_directory(), BUCKETD_FAILING_ARTIFACTS};
  config["workers"] = {
      {{"first_core", 0}, {"cores", 1}, {"operator_libraries", {BUCKETD_TEST_OPERATORS}}},
      {{"first_core", 1}, {"cores", 1}}};
  config["models"] = {{{"name", failing},
                       {"path", std::string(BUCKETD_FAILING_ARTIFACTS) + "/" + failing + ".pt"},
                       {"execution_limit_ms", kExecutionLimitMs}},
                      {{"name", "beside"}, {"path", "multi.pt"}},
                      {{"name", "slow_beside"}, {"path", "slow.pt"}},
                      {{"name", "multi"}, {"path", "multi.pt"}, {"worker", 1}}};
  return config;
}

struct Way {
  std::string name;          // of the operator
  std::string said;          // that the worker's last death, and the error, say
  bool until_limit = false;  // noticed by the execution limit only
};

class ModelFaults : public ::testing::TestWithParam<std::tuple<Way, Transport>> {
 protected:
  const Way& way() const { return std::get<0>(GetParam()); }
  Transport transport() const { return std::get<1>(GetParam()); }
  std::string model_name() const { return way().name + "_when_asked"; }
};

// Waits for the answer, which has to come soon after the worker's death.
Status error_of(Future& future, bool until_limit) {
  const auto started = std::chrono::steady_clock::now();
  const Result<Reply> reply = future.wait(patience());
  const auto took = std::chrono::steady_clock::now() - started;
  EXPECT_LT(took, kSoon + std::chrono::milliseconds(until_limit ? kExecutionLimitMs : 0));
  return reply ? Status() : reply.error();
}

Result<Future> send(Model& model, const Tensor& input) {
  return submit(model, std::span(&input, 1), {.deadline = patience()});
}

TEST_P(ModelFaults, cost_their_worker_and_nobody_else) {
  TestDaemon daemon(two_workers(model_name()));
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = transport()});
  Model failing = *client.open(model_name());
  Model beside = *client.open("beside");
  ASSERT_TRUE(call(failing, {harmless()}));
  ASSERT_EQ(call_multi(beside), Status());
  BackgroundCalls elsewhere(daemon.open("multi", transport()));

  Result<Future> fatal = send(failing, trigger());
  ASSERT_TRUE(fatal) << fatal.error().to_string();
  const Status error = error_of(*fatal, way().until_limit);
  EXPECT_EQ(error.code(), StatusCode::kAborted) << error.to_string();
  EXPECT_THAT(error.message(), HasSubstr(model_name()));

  // The same handles go on, without connecting anew by hand.
  const Result<Answer> answer = call(failing, {harmless()}, {.deadline = patience()});
  ASSERT_TRUE(answer) << answer.error().to_string();
  EXPECT_EQ(answer->outputs[0], filled<float>({1, 3}, 2));
  EXPECT_EQ(call_multi(beside), Status());

  const std::size_t answers = elsewhere.answers();
  EXPECT_TRUE(eventually([&] {
    (void)client.models();
    return elsewhere.answers() > answers + 10;
  })) << "the other worker's client stands still";
  EXPECT_EQ(elsewhere.stop(), Status()) << "a client of the other worker noticed";

  const Result<DaemonStatus> status = client.status();
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(status->workers.at(0).restarts, 1u);
  EXPECT_THAT(status->workers.at(0).last_death,
              AllOf(HasSubstr(way().said), HasSubstr(model_name())));
  EXPECT_EQ(status->workers.at(1).restarts, 0u);
  daemon.expect_clean_stop();
}

TEST_P(ModelFaults, give_everything_in_flight_one_answer_that_tells_what_is_safe_to_repeat) {
  TestDaemon daemon(two_workers(model_name()));
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = transport()});
  // In this order: of what arrives at once, the worker takes the lane first that was opened first.
  Model slow = *client.open("slow_beside");
  Model failing = *client.open(model_name());

  // One core: the first runs, the fatal one after it, and the rest never starts.
  Result<Future> first = send(slow, tensor<std::int64_t>({1}, {3000}));
  Result<Future> fatal = send(failing, trigger());
  ASSERT_TRUE(first && fatal);
  std::vector<Future> behind;
  for (int i = 0; i < 2; ++i) {
    Result<Future> future = send(failing, harmless());
    ASSERT_TRUE(future) << future.error().to_string();
    behind.push_back(std::move(*future));
  }
  const Result<Reply> served = first->wait(patience());
  EXPECT_TRUE(served) << served.error().to_string();
  EXPECT_EQ(error_of(*fatal, way().until_limit).code(), StatusCode::kAborted);
  for (Future& future : behind) {
    const Status status = error_of(future, false);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  }
  EXPECT_TRUE(call(failing, {harmless()}, {.deadline = patience()}));
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(
    Ways, ModelFaults,
    ::testing::Combine(::testing::Values(Way{"abort", "SIGABRT"},
                                         Way{"null_dereference", "SIGSEGV"}, Way{"exit", "3"},
                                         Way{"hang", "500", true}, Way{"spin", "500", true}),
                       ::testing::Values(Transport::kRing, Transport::kStream)),
    [](const auto& info) {
      const bool ring = std::get<1>(info.param) == Transport::kRing;
      return std::get<0>(info.param).name + (ring ? "_ring" : "_stream");
    });

TEST(ModelThatRaises, costs_its_request_only) {
  TestDaemon daemon(two_workers("throw_error_when_asked"));
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect();
  Model raising = *client.open("throw_error_when_asked");
  for (int i = 0; i < 5; ++i) {
    const Result<Answer> answer = call(raising, {trigger()});
    ASSERT_FALSE(answer) << "answered";
    EXPECT_EQ(answer.error().code(), StatusCode::kInternal) << answer.error().to_string();
    EXPECT_THAT(answer.error().message(), HasSubstr("throw_error_when_asked"));
    EXPECT_TRUE(call(raising, {harmless()}));
  }
  EXPECT_EQ(client.status()->workers.at(0).restarts, 0u);
  daemon.expect_clean_stop();
}

TEST(RepeatOffender, is_refused_on_that_model_and_on_no_other) {
  nlohmann::json config = two_workers("abort_when_asked");
  config["crash"] = {{"deaths_per_client", 2}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect();
  Model failing = *client.open("abort_when_asked");
  for (int death = 1; death <= 2; ++death) {
    const Result<Answer> answer = call(failing, {trigger()}, {.deadline = patience()});
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), StatusCode::kAborted) << answer.error().to_string();
  }
  const Result<Answer> refused = call(failing, {harmless()}, {.deadline = patience()});
  ASSERT_FALSE(refused) << "it may go on killing workers";
  EXPECT_THAT(refused.error().code(),
              AnyOf(StatusCode::kPermissionDenied, StatusCode::kResourceExhausted));
  EXPECT_THAT(refused.error().message(), AllOf(HasSubstr("abort_when_asked"), HasSubstr("2")));
  // Neither does a new connection help.
  EXPECT_FALSE(daemon.connect().open("abort_when_asked"));

  Model beside = *client.open("beside");
  EXPECT_EQ(call_multi(beside), Status());
  EXPECT_EQ(client.status()->workers.at(0).restarts, 2u);

  // An administrator who loads it anew forgives.
  const Status loaded = client.load_model(
      std::string(BUCKETD_FAILING_ARTIFACTS) + "/abort_when_asked.pt", "", patience());
  EXPECT_EQ(loaded, Status()) << loaded.to_string();
  Model again = *client.open("abort_when_asked");
  EXPECT_TRUE(call(again, {harmless()}));
  daemon.expect_clean_stop();
}

TEST(RepeatOffender, is_charged_alone_although_others_executed_besides) {
  nlohmann::json config = two_workers("abort_when_asked");
  config["workers"][0]["cores"] = 3;
  config["workers"][1]["first_core"] = 3;
  config["crash"] = {{"deaths_per_client", 1}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect();
  Model slow = *client.open("slow_beside");
  Model beside = *client.open("beside");
  Model failing = *client.open("abort_when_asked");
  Result<Future> innocent = send(slow, tensor<std::int64_t>({1}, {1'000'000}));
  ASSERT_TRUE(innocent) << innocent.error().to_string();
  // Submitted after it, so that it is being executed when this is answered.
  ASSERT_EQ(call_multi(beside), Status());
  const Result<Answer> fatal = call(failing, {trigger()}, {.deadline = patience()});
  ASSERT_FALSE(fatal);
  EXPECT_EQ(fatal.error().code(), StatusCode::kAborted) << fatal.error().to_string();
  const Result<Reply> cut_off = innocent->wait(patience());
  ASSERT_FALSE(cut_off) << "it was not executing when the worker died";
  EXPECT_EQ(cut_off.error().code(), StatusCode::kAborted) << cut_off.error().to_string();

  const Result<Answer> refused = call(failing, {harmless()}, {.deadline = patience()});
  ASSERT_FALSE(refused) << "half a death was charged to whom it killed too";
  EXPECT_THAT(refused.error().code(),
              AnyOf(StatusCode::kPermissionDenied, StatusCode::kResourceExhausted));
  const Result<Answer> served =
      call(slow, {tensor<std::int64_t>({1}, {1})}, {.deadline = patience()});
  EXPECT_TRUE(served) << served.error().to_string();
  daemon.expect_clean_stop();
}

// Four of the models take all of it; the others have to be done in it.
constexpr int kProbeTimeoutMs = kIsSanitized ? 20'000 : 4'000;

// What the reason of a quarantine or a refusal has to tell.
std::string said_of(const std::string& model) {
  if (model.starts_with("abort")) return "SIGABRT";
  if (model.starts_with("null_dereference")) return "SIGSEGV";
  if (model.starts_with("exit")) return "3";
  if (model.starts_with("throw_error")) return "was asked to raise";
  return std::to_string(kProbeTimeoutMs);  // hang, spin
}

TEST(ModelsThatDieWhileLoading, are_quarantined_while_others_are_served) {
  nlohmann::json config;
  config["artifact_roots"] = {artifact_directory(), BUCKETD_FAILING_ARTIFACTS};
  config["workers"] = {{{"cores", 1}, {"operator_libraries", {BUCKETD_TEST_OPERATORS}}}};
  expect_models_to_crash();
  config["limits"] = {{"probe_timeout_ms", kProbeTimeoutMs}};
  config["models"] = TestDaemon::model_list({"multi"});
  for (const char* way : {"abort", "null_dereference", "exit", "hang", "spin", "throw_error"}) {
    for (const char* when : {"while_loading", "in_warm_up"}) {
      const std::string name = std::string(way) + "_" + when;
      // A bucket that only raises on zeros is warmed up on ones.
      if (name == "throw_error_in_warm_up") continue;
      config["models"].push_back(
          {{"name", name}, {"path", std::string(BUCKETD_FAILING_ARTIFACTS) + "/" + name + ".pt"}});
    }
  }
  TestDaemon daemon(config);
  daemon.start_without_waiting();
  // `multi` does not wait for the others.
  Client client = daemon.connect({.connect_timeout = std::chrono::seconds(60)});
  Model multi = *client.open("multi");
  BackgroundCalls serving(multi);
  ASSERT_TRUE(daemon.wait_until_ready());

  const Result<std::vector<ModelSummary>> models = client.models();
  ASSERT_TRUE(models) << models.error().to_string();
  for (const ModelSummary& model : *models) {
    SCOPED_TRACE(model.name + ": " + model.reason);
    if (model.name == "multi") {
      EXPECT_EQ(model.state, ModelState::kReady);
      continue;
    }
    const bool raised = model.name.starts_with("throw_error");
    EXPECT_EQ(model.state, raised ? ModelState::kFailed : ModelState::kQuarantined);
    EXPECT_THAT(model.reason, HasSubstr(said_of(model.name)));
    const Result<Model> opened = client.open(model.name);
    ASSERT_FALSE(opened) << "opened";
    EXPECT_THAT(opened.error().message(), HasSubstr(model.name));
  }
  EXPECT_EQ(serving.stop(), Status());
  EXPECT_EQ(client.status()->workers.at(0).restarts, 0u) << "a serving worker saw them";
  daemon.expect_clean_stop();
}

}  // namespace
}  // namespace bucketd::test
