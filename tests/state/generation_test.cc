// A generation token by token through a session: prefill and decode buckets share one cache, which
// is left- or right-aligned, and the text outgrows a bucket on its way.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bucketd/session.h"
#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

using Tokens = std::vector<std::int64_t>;

class Generation : public ::testing::TestWithParam<std::tuple<Transport, const char*>> {
 protected:
  Generation() {
    const nlohmann::json texts =
        nlohmann::json::parse(std::ifstream(BUCKETD_GENERATION_ARTIFACTS "/texts.json"));
    for (const nlohmann::json& text : texts) texts_.push_back({text["prompt"], text["expected"]});
  }

  static nlohmann::json configuration() {
    nlohmann::json config = TestDaemon::serving({model_name()});
    config["artifact_roots"] = {BUCKETD_GENERATION_ARTIFACTS};
    config["crash"] = {{"restart_delay_ms", 1}};
    return config;
  }
  static std::string model_name() {
    return std::string("generator_") + std::get<const char*>(GetParam());
  }
  static Transport transport() { return std::get<Transport>(GetParam()); }

  struct Step {
    std::int64_t next = 0;
    std::uint32_t bucket = 0;
  };
  // Sends `tokens`, the newest of `length` in all.
  static Result<Step> step(Session& session, const Tokens& tokens, std::size_t length) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    Result<Request> request =
        session.new_request({{1, count}, {1, static_cast<std::int64_t>(length)}});
    if (!request) return error(request.error());
    request->input<std::int64_t>(0).copy_from(tokens);
    request->input<std::int64_t>(1).copy_from(Tokens(length, 1));
    const Result<Reply> reply = std::move(*request).run();
    if (!reply) return error(reply.error());
    return Step{reply->output<std::int64_t>(0).to_vector().at(tokens.size() - 1), reply->bucket()};
  }

  // What follows `prompt`, and the buckets that gave it. `before`: called before each token.
  template <typename Before>
  static std::pair<Tokens, std::set<std::uint32_t>> generate(Session& session, const Tokens& prompt,
                                                             std::size_t count, Before before) {
    Tokens next = prompt;
    Tokens text;
    std::set<std::uint32_t> buckets;
    std::size_t length = 0;
    while (text.size() < count) {
      before(text.size());
      length += next.size();
      const Result<Step> done = step(session, next, length);
      if (!done) {
        ADD_FAILURE() << "token " << text.size() << ": " << done.error().to_string();
        break;
      }
      text.push_back(done->next);
      buckets.insert(done->bucket);
      next = {done->next};
    }
    return {text, buckets};
  }

  struct Text {
    Tokens prompt;
    Tokens expected;
  };
  std::vector<Text> texts_;
};

TEST_P(Generation, goes_through_all_buckets_over_one_cache_without_a_copy) {
  TestDaemon daemon(configuration());
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = transport()});
  Model model = *client.open(model_name());
  std::set<std::uint32_t> all_buckets;
  for (const Text& text : texts_) {
    Session session = *model.open_session();
    const auto [tokens, buckets] =
        generate(session, text.prompt, text.expected.size(), [](std::size_t) {});
    EXPECT_EQ(tokens, text.expected);
    all_buckets.insert(buckets.begin(), buckets.end());
  }
  EXPECT_EQ(all_buckets.size(), model.description().buckets.size()) << "some bucket had no turn";
  EXPECT_EQ(client.status()->workers.at(0).state_bytes_copied, 0u);
  daemon.expect_clean_stop();
}

TEST_P(Generation, of_two_texts_in_turns_goes_on_over_the_workers_death) {
  TestDaemon daemon(configuration());
  ASSERT_TRUE(daemon.start());
  Client client = daemon.connect({.transport = transport()});
  Model model = *client.open(model_name());
  Session first = *model.open_session();
  Session second = *model.open_session();
  const Text& text = texts_.back();
  // The second text is a step behind the first, in the same buckets.
  Tokens behind = text.prompt;
  Tokens followed;
  std::size_t length = 0;
  const auto [tokens, buckets] =
      generate(first, text.prompt, text.expected.size(), [&](std::size_t at) {
        if (at == 0) return;
        length += behind.size();
        const Result<Step> done = step(second, behind, length);
        ASSERT_TRUE(done) << done.error().to_string();
        followed.push_back(done->next);
        behind = {done->next};
        if (at != 10) return;
        const std::uint32_t restarts = client.status()->workers.at(0).restarts;
        // A checkpoint comes after the requests before it are over, marks and all: the kill tears
        // nothing.
        ASSERT_TRUE(first.checkpoint().ok() && second.checkpoint().ok());
        ::kill(client.status()->workers.at(0).pid, SIGKILL);
        ASSERT_TRUE(eventually([&] { return client.status()->workers.at(0).restarts > restarts; }));
      });
  EXPECT_EQ(tokens, text.expected);
  Tokens all_but_last = text.expected;
  all_but_last.pop_back();
  EXPECT_EQ(followed, all_but_last);
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, Generation,
                         ::testing::Combine(::testing::Values(Transport::kRing, Transport::kStream),
                                            ::testing::Values("left", "right")),
                         [](const auto& info) {
                           const bool is_ring = std::get<Transport>(info.param) == Transport::kRing;
                           return std::string(is_ring ? "ring" : "stream") + "_" +
                                  std::get<const char*>(info.param);
                         });

}  // namespace
}  // namespace bucketd::test
