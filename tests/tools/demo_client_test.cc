// The demo's client passes on a right artifact and notices wrong ones: a demo that cannot fail
// shows nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kLengths = "1,64,122,127-131,150,157-159,300,444,511,512";

// The tiny BERT and its requests, served.
class ServedBert {
 public:
  // `options` of make_demo_artifact.py.
  explicit ServedBert(const std::vector<std::string>& options = {}) {
    const std::string python_path = std::string(BUCKETD_SOURCE_DIR) + "/libclient/python";
    std::vector<std::string> arguments = {python_path + "/examples/make_demo_artifact.py",
                                          "--size",
                                          "tiny",
                                          "--output",
                                          directory_.path(),
                                          "--lengths",
                                          kLengths};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const RunResult made = run_program(BUCKETD_PYTHON, arguments,
                                       {"PYTHONPATH=" + python_path, "PYTHONDONTWRITEBYTECODE=1"});
    EXPECT_EQ(made.exit_code, 0) << made.output;
    nlohmann::json config = TestDaemon::serving({"bert"});
    config["artifact_roots"] = {directory_.path()};
    daemon_.emplace(config);
    EXPECT_TRUE(daemon_->start());
  }
  ~ServedBert() { daemon_->expect_clean_stop(); }

  RunResult run(const std::string& program, const std::vector<std::string>& arguments = {}) {
    return run_program(executable(program), arguments,
                       {"BUCKETD_SOCKET=" + daemon_->socket_path().string()});
  }
  RunResult run_demo_client(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.end(), {"--requests", directory_.path() / "requests"});
    return run("bucketd-demo-client", arguments);
  }

 private:
  TemporaryDirectory directory_;
  std::optional<TestDaemon> daemon_;
};

TEST(DemoClient, passes_when_everything_is_right) {
  const RunResult result = ServedBert().run_demo_client();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("WRONG")));
}

TEST(DemoClient, notices_a_shifted_bucket_boundary) {
  const RunResult result = ServedBert({"--break-boundary"}).run_demo_client();
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("WRONG"));
}

TEST(DemoClient, notices_wrong_padding) {
  const RunResult result = ServedBert({"--break-padding"}).run_demo_client();
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("WRONG"));
}

TEST(DemoClient, shows_each_wrong_request_its_own_error) {
  const RunResult result = ServedBert().run_demo_client({"--show-errors"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("513"), HasSubstr("512"), HasSubstr("float32"), HasSubstr("'brt'")));
}

TEST(Hello, the_client_of_the_readme_works) {
  const RunResult result = ServedBert().run("bucketd-hello");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("bucket 0: "));
}

}  // namespace
}  // namespace bucketd::test
