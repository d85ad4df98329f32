#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/bucketctl/exit_code.h"
#include "tools/bucketctl/infer.h"

namespace bucketd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelDescription two_inputs() {
  ModelDescription model;
  model.name = "bert";
  model.inputs = {{"ids", DType::kInt64}, {"0", DType::kInt64}};
  return model;
}

void expect_refused(const std::vector<std::string>& arguments, const std::string& text) {
  const auto files = match_inputs(two_inputs(), arguments);
  ASSERT_FALSE(files) << "accepted, expected: " << text;
  EXPECT_EQ(files.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(files.error().message(), HasSubstr(text));
}

TEST(MatchInputs, files_are_found_by_name_and_by_index_in_any_order) {
  EXPECT_THAT(match_inputs(two_inputs(), {"1=b.npy", "ids=a.npy"}).value(),
              ElementsAre("a.npy", "b.npy"));
  EXPECT_THAT(match_inputs(two_inputs(), {"ids=a=c.npy", "1=b.npy"}).value(),
              ElementsAre("a=c.npy", "b.npy"));
}

TEST(MatchInputs, a_name_wins_over_an_index) {
  EXPECT_THAT(match_inputs(two_inputs(), {"0=b.npy", "ids=a.npy"}).value(),
              ElementsAre("a.npy", "b.npy"));
}

TEST(MatchInputs, what_is_wrong_is_named) {
  expect_refused({"ids"}, "NAME_OR_INDEX=FILE.npy");
  expect_refused({"ids="}, "NAME_OR_INDEX=FILE.npy");
  expect_refused({"mask=a.npy"}, "no input 'mask'; it has 0 'ids', 1 '0'");
  expect_refused({"2=a.npy"}, "no input '2'");
  expect_refused({"1x=a.npy"}, "no input '1x'");
  expect_refused({"ids=a.npy", "ids=b.npy"}, "given twice");
  expect_refused({"ids=a.npy"}, "input 1 '0' is missing");
  expect_refused({}, "input 0 'ids' is missing");
}

TEST(ExitCode, each_kind_of_failure_has_its_own) {
  EXPECT_EQ(exit_code_of(StatusCode::kOk), ExitCode::kOk);
  EXPECT_EQ(exit_code_of(StatusCode::kUnavailable), ExitCode::kDaemonUnreachable);
  EXPECT_EQ(exit_code_of(StatusCode::kNotFound), ExitCode::kNotFound);
  EXPECT_EQ(exit_code_of(StatusCode::kPermissionDenied), ExitCode::kPermissionDenied);
  EXPECT_EQ(exit_code_of(StatusCode::kDeadlineExceeded), ExitCode::kTimedOut);
  EXPECT_EQ(exit_code_of(StatusCode::kInvalidArgument), ExitCode::kRequestFailed);
  EXPECT_EQ(exit_code_of(StatusCode::kAborted), ExitCode::kRequestFailed);
}

}  // namespace
}  // namespace bucketd
