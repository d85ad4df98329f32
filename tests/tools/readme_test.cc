// What the root README shows is what exists: its client is the example that is built and run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/support/temporary_directory.h"

namespace bucketd::test {
namespace {

using ::testing::HasSubstr;

TEST(Readme, shows_the_example_client_word_for_word_in_at_most_twenty_lines) {
  const std::filesystem::path root = BUCKETD_SOURCE_DIR;
  const std::string example = read_text(root / "libclient/examples/hello.cc");
  ASSERT_FALSE(example.empty());
  EXPECT_LE(std::count(example.begin(), example.end(), '\n'), 20);
  EXPECT_THAT(read_text(root / "README.md"), HasSubstr("```cpp\n" + example + "```\n"));
}

}  // namespace
}  // namespace bucketd::test
