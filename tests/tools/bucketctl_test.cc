// bucketctl against a running daemon: what it prints, writes and returns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/tensor.h"
#include "tools/npy/npy.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Bucketctl : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon_.start()); }

  RunResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--socket", daemon_.socket_path()});
    return run_program(executable("bucketctl"), arguments);
  }
  nlohmann::json run_json(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    const RunResult result = run(arguments);
    return nlohmann::json::parse(result.output, nullptr, /*allow_exceptions=*/false);
  }
  std::string write(const std::string& name, const Tensor& tensor) {
    const std::string path = daemon_.directory() / name;
    EXPECT_TRUE(write_npy(path, tensor.dtype, tensor.shape, tensor.data).ok());
    return path;
  }

  TestDaemon daemon_{TestDaemon::serving({"multi", "script_kernel"})};
};

TEST_F(Bucketctl, status_and_models_show_workers_and_models) {
  const RunResult status = run({"status"});
  EXPECT_EQ(status.exit_code, 0);
  EXPECT_THAT(status.output, AllOf(HasSubstr("pid " + std::to_string(daemon_.pid())),
                                   HasSubstr("serving"), HasSubstr("script_kernel")));
  const nlohmann::json json = run_json({"status"});
  EXPECT_EQ(json["pid"], daemon_.pid());
  EXPECT_EQ(json["workers"].size(), 1u);
  EXPECT_EQ(json["models"].size(), 2u);
  EXPECT_EQ(run_json({"models"})["models"][0]["state"], "ready");
}

TEST_F(Bucketctl, describe_shows_inputs_and_buckets) {
  const RunResult text = run({"describe", "script_kernel"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.output, AllOf(HasSubstr("attention_mask"), HasSubstr("[1, 512]")));
  EXPECT_EQ(run_json({"describe", "multi"})["inputs"][0]["name"], "values");
}

TEST_F(Bucketctl, waits_for_the_daemon_and_the_model_when_told_to) {
  daemon_.kill();
  ChildProcess waiting(executable("bucketctl"), {{"--wait", "--timeout", "60", "--socket",
                                                  daemon_.socket_path(), "describe", "multi"},
                                                 {},
                                                 daemon_.directory() / "described"});
  daemon_.start_without_waiting();
  EXPECT_EQ(waiting.exit_code(), 0) << read_text(daemon_.directory() / "described");
  EXPECT_THAT(read_text(daemon_.directory() / "described"), HasSubstr("values"));
}

TEST_F(Bucketctl, infer_runs_a_model_on_npy_files) {
  const std::string values = write("values.npy", tensor<float>({1, 3}, {1, 2, 3}));
  const std::string marks = write("marks.npy", tensor<std::int64_t>({1, 3}, {10, 20, 30}));
  const std::string out = daemon_.directory() / "out";
  for (const char* transport : {"ring", "stream"}) {
    std::filesystem::remove_all(out);
    const RunResult result = run({"infer", "multi", "-i", "values=" + values, "-i", "1=" + marks,
                                  "-o", out, "--transport", transport});
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("bucket 0"));
    const Result<NpyArray> weighted = read_npy(out + "/weighted.npy");
    ASSERT_TRUE(weighted) << weighted.error().to_string();
    EXPECT_EQ(weighted->shape, (Shape{1, 3}));
    EXPECT_EQ(weighted->data, tensor<float>({1, 3}, {10, 40, 90}).data);
    EXPECT_TRUE(read_npy(out + "/sums.npy"));
  }
  const nlohmann::json json =
      run_json({"infer", "multi", "-i", "values=" + values, "-i", "marks=" + marks});
  EXPECT_EQ(json["outputs"][1]["name"], "doubled");
  EXPECT_EQ(json["outputs"][1]["shape"], nlohmann::json::parse("[1, 3]"));
}

TEST_F(Bucketctl, each_kind_of_failure_has_its_exit_code) {
  const std::string ids = write("ids.npy", filled<std::int64_t>({1, 513}, 1));
  const std::vector<std::string> too_long = {"infer", "script_kernel", "-i", "0=" + ids,
                                             "-i",    "1=" + ids,      "-i", "2=" + ids};
  const RunResult refused = run(too_long);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, AllOf(HasSubstr("OUT_OF_RANGE"), HasSubstr("513")));
  const nlohmann::json json = run_json(too_long);
  EXPECT_EQ(json["error"]["code"], "OUT_OF_RANGE");

  EXPECT_EQ(run({"infer", "multi", "-i", "0=" + ids}).exit_code, 1) << "an input is missing";
  EXPECT_EQ(run({"describe"}).exit_code, 2);
  EXPECT_EQ(run({"fly"}).exit_code, 2);
  EXPECT_EQ(run({}).exit_code, 2);
  EXPECT_EQ(run({"describe", "nobody"}).exit_code, 4);
  EXPECT_EQ(run({"infer", "nobody", "-i", "0=" + ids}).exit_code, 4);
  EXPECT_EQ(run({"infer", "multi", "-i", "0=/no/such.npy", "-i", "1=" + ids}).exit_code, 4);
  EXPECT_EQ(run({"load", "no_such.pt"}).exit_code, 4);
  EXPECT_EQ(run({"unload", "nobody"}).exit_code, 4);
  EXPECT_EQ(run_program(executable("bucketctl"), {"status", "--socket", "/no/such.sock"}).exit_code,
            3);
  EXPECT_EQ(run({"--help"}).exit_code, 0);
}

TEST_F(Bucketctl, load_and_unload_change_what_is_served) {
  EXPECT_EQ(run({"load", "static_one.pt", "--name", "other"}).exit_code, 0);
  EXPECT_EQ(run({"describe", "other"}).exit_code, 0);
  EXPECT_EQ(run({"unload", "other"}).exit_code, 0);
  EXPECT_EQ(run({"describe", "other"}).exit_code, 4);
  EXPECT_EQ(run({"load", "../../etc/passwd"}).exit_code == 0, false) << "beyond the roots";
}

}  // namespace
}  // namespace bucketd::test
