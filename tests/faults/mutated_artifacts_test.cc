// Artifacts that are damaged, contradict themselves or lie: each is refused with a reason, and a
// model that serves meanwhile does not notice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/background_calls.h"
#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::size_t kLeast = 200;

struct Mutation {
  std::string file;
  std::string kind;
};

std::vector<Mutation> mutations() {
  std::ifstream file(std::string(BUCKETD_MUTATED_ARTIFACT_DIR) + "/mutations.json");
  std::vector<Mutation> result;
  for (const nlohmann::json& entry : nlohmann::json::parse(file)) {
    result.push_back({entry.at("file"), entry.at("kind")});
  }
  return result;
}

TEST(MutatedArtifacts, are_each_refused_with_a_reason_while_others_are_served) {
  const std::vector<Mutation> all = mutations();
  ASSERT_GE(all.size(), kLeast);
  nlohmann::json config = TestDaemon::serving({"multi"});
  config["artifact_roots"] = {artifact_directory(), BUCKETD_MUTATED_ARTIFACT_DIR};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  const pid_t worker = daemon.connect().status()->workers.at(0).pid;
  BackgroundCalls serving(daemon.open("multi"));

  // Two at a time: each is loaded in a probe process of its own.
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      Client client = daemon.connect();
      for (std::size_t i = next++; i < all.size(); i = next++) {
        SCOPED_TRACE(all[i].file + " (" + all[i].kind + ")");
        const Status status =
            client.load_model(std::string(BUCKETD_MUTATED_ARTIFACT_DIR) + "/" + all[i].file,
                              "mutated-" + std::to_string(i), patience());
        EXPECT_FALSE(status.ok()) << "accepted";
        EXPECT_GT(status.message().size(), 20u) << "no reason: " << status.to_string();
        EXPECT_NE(status.code(), StatusCode::kNotFound) << status.to_string();
        EXPECT_NE(status.code(), StatusCode::kDeadlineExceeded) << status.to_string();
        EXPECT_NE(status.code(), StatusCode::kUnavailable) << status.to_string();
        EXPECT_THAT(status.message(), Not(HasSubstr("0x0"))) << "an address";
        if (!status.ok()) ++refused;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::size_t answers = serving.answers();
  EXPECT_EQ(serving.stop(), Status());
  EXPECT_EQ(refused, all.size());
  EXPECT_GT(answers, all.size()) << "the model did not go on serving";

  const Result<DaemonStatus> status = daemon.connect().status();
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(status->workers.at(0).pid, worker) << "the serving worker was restarted";
  EXPECT_EQ(status->workers.at(0).restarts, 0u);
  daemon.expect_clean_stop();
}

TEST(MutatedArtifacts, in_the_configuration_do_not_keep_the_others_from_serving) {
  const std::vector<Mutation> all = mutations();
  nlohmann::json config = TestDaemon::serving({"multi"});
  config["artifact_roots"] = {artifact_directory(), BUCKETD_MUTATED_ARTIFACT_DIR};
  config["models"].push_back(
      {{"name", "broken"},
       {"path", std::string(BUCKETD_MUTATED_ARTIFACT_DIR) + "/" + all.front().file}});
  config["models"].push_back({{"name", "missing"}, {"path", "missing.pt"}});
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect();
  const Result<std::vector<ModelSummary>> models = client.models();
  ASSERT_TRUE(models) << models.error().to_string();
  for (const ModelSummary& model : *models) {
    SCOPED_TRACE(model.name);
    if (model.name == "multi") {
      EXPECT_EQ(model.state, ModelState::kReady);
    } else {
      EXPECT_EQ(model.state, ModelState::kFailed);
      EXPECT_NE(model.reason, "");
      const Result<Model> opened = client.open(model.name);
      ASSERT_FALSE(opened);
      EXPECT_THAT(opened.error().message(), HasSubstr(model.name));
    }
  }
  Model multi = *client.open("multi");
  EXPECT_EQ(call_multi(multi), Status());
  daemon.expect_clean_stop();
}

}  // namespace
}  // namespace bucketd::test
