// SIGTERM: what was submitted is answered, or said to be lost; nothing is left behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGTERM

#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {
namespace {

using ::testing::HasSubstr;

class Stop : public ::testing::TestWithParam<Transport> {
 protected:
  // Submits `count` requests of `rounds` rounds each.
  static std::vector<Future> submit_slow(Model& model, int count, std::int64_t rounds) {
    const Tensor input = tensor<std::int64_t>({1}, {rounds});
    std::vector<Future> futures;
    for (int i = 0; i < count; ++i) {
      Result<Future> future = submit(model, std::span(&input, 1));
      if (!future) {
        ADD_FAILURE() << future.error().to_string();
        break;
      }
      futures.push_back(std::move(*future));
    }
    return futures;
  }
  // Whether request `count` has been answered: by then the others are with the worker.
  static void wait_for_completed(Client& client, std::uint64_t count) {
    EXPECT_TRUE(eventually([&] {
      const Result<DaemonStatus> status = client.status();
      return status && status->workers.at(0).completed >= count;
    }));
  }
};

TEST_P(Stop, answers_what_is_in_flight) {
  TestDaemon daemon(TestDaemon::serving({"slow"}));
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model model = *client.open("slow");
  std::vector<Future> futures = submit_slow(model, 4, 500);
  wait_for_completed(client, 1);
  daemon.process().send(SIGTERM);
  for (Future& future : futures) {
    const Result<Reply> reply = future.wait(patience());
    EXPECT_TRUE(reply) << reply.error().to_string();
  }
  daemon.expect_clean_stop();
}

TEST_P(Stop, says_of_what_outlives_the_drain_time_that_it_may_have_run) {
  nlohmann::json config = TestDaemon::serving({"slow"});
  config["shutdown"] = {{"drain_timeout_ms", 100}};
  config["workers"] = {{{"cores", 1}}};
  TestDaemon daemon(config);
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = GetParam()});
  Model model = *client.open("slow");
  // One that ends, then one that does not, then one that never starts.
  std::vector<Future> first = submit_slow(model, 1, 1);
  std::vector<Future> futures = submit_slow(model, 2, 100'000'000);
  wait_for_completed(client, 1);
  daemon.process().send(SIGTERM);
  const Result<Reply> ran = futures.at(0).wait(patience());
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().code(), StatusCode::kAborted) << ran.error().to_string();
  EXPECT_THAT(ran.error().message(), HasSubstr("slow"));
  const Result<Reply> waited = futures.at(1).wait(patience());
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code(), StatusCode::kUnavailable) << waited.error().to_string();
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, Stop, ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace
}  // namespace bucketd::test
