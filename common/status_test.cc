#include "bucketd/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

#include "common/system_error.h"

namespace bucketd {
namespace {

TEST(StatusTest, every_known_code_has_a_name_of_its_own) {
  std::set<std::string> names;
  int known = 0;
  for (std::uint32_t code = 0; code < 1000; ++code) {
    if (!is_known_status_code(code)) continue;
    ++known;
    names.insert(status_code_name(static_cast<StatusCode>(code)));
  }
  EXPECT_EQ(known, 17);
  EXPECT_EQ(names.size(), 17u);
}

TEST(StatusTest, context_stands_before_the_message_and_leaves_ok_alone) {
  const Status status(StatusCode::kNotFound, "no model named 'brt'");
  EXPECT_EQ(status.with_context("while opening").to_string(),
            "NOT_FOUND: while opening: no model named 'brt'");
  EXPECT_EQ(Status().with_context("while opening"), Status());
}

TEST(SystemErrorTest, an_errno_is_explained_in_words) {
  const Status status = status_from_errno("map the channel", ENOMEM);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "cannot map the channel: Cannot allocate memory (ENOMEM)");
  EXPECT_EQ(status_from_errno("x", 99999).code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace bucketd
