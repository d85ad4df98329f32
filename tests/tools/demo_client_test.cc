// The demo's client passes on a right artifact and notices wrong ones: a demo that cannot fail
// shows nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kLengths = "1,64,122,127-131,150,157-159,300,444,511,512";

// Makes the tiny BERT with `options`, serves it, and runs the demo's client on all requests.
RunResult run_demo(const std::vector<std::string>& options, bool show_errors = false) {
  const TemporaryDirectory directory;
  const std::string python_path = std::string(BUCKETD_SOURCE_DIR) + "/libclient/python";
  std::vector<std::string> arguments = {python_path + "/examples/make_demo_artifact.py",
                                        "--size",
                                        "tiny",
                                        "--output",
                                        directory.path(),
                                        "--lengths",
                                        kLengths};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const RunResult made = run_program(BUCKETD_PYTHON, arguments, {"PYTHONPATH=" + python_path});
  EXPECT_EQ(made.exit_code, 0) << made.output;

  nlohmann::json config = TestDaemon::serving({"bert"});
  config["artifact_roots"] = {directory.path()};
  TestDaemon daemon(config);
  EXPECT_TRUE(daemon.start());
  std::vector<std::string> client = {"--socket", daemon.socket_path(), "--requests",
                                     directory.path() / "requests"};
  if (show_errors) client.emplace_back("--show-errors");
  const RunResult result = run_program(executable("bucketd-demo-client"), client);
  daemon.expect_clean_stop();
  return result;
}

TEST(DemoClient, passes_when_everything_is_right) {
  const RunResult result = run_demo({});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("WRONG")));
}

TEST(DemoClient, notices_a_shifted_bucket_boundary) {
  const RunResult result = run_demo({"--break-boundary"});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("WRONG"));
}

TEST(DemoClient, notices_wrong_padding) {
  const RunResult result = run_demo({"--break-padding"});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("WRONG"));
}

TEST(DemoClient, shows_each_wrong_request_its_own_error) {
  const RunResult result = run_demo({}, /*show_errors=*/true);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("513"), HasSubstr("512"), HasSubstr("float32"), HasSubstr("'brt'")));
}

}  // namespace
}  // namespace bucketd::test
