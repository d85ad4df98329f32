#include "daemon/backends/torchscript/artifact_seal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "daemon/backends/torchscript/testing/temporary_file.h"

namespace bucketd::torchscript {
namespace {

using testing::file_with;
using ::testing::HasSubstr;

// SHA-256 of "abcbucketd-seal sha256:", by sha256sum.
constexpr char kDigest[] = "2bb2ea42a68b8ed90bc0c9ed141c020977c309a824ad08ef242d7e45fad485da";

std::string sealed_abc() { return std::string("abcbucketd-seal sha256:") + kDigest; }

TEST(ArtifactSeal, a_right_seal_gives_the_digest) {
  const std::string content = sealed_abc();
  const auto digest = check_seal(file_with(content).get(), content.size());
  ASSERT_TRUE(digest.has_value()) << digest.error().to_string();
  EXPECT_EQ(*digest, kDigest);
}

TEST(ArtifactSeal, every_changed_byte_is_found) {
  for (std::size_t at = 0; at < sealed_abc().size(); ++at) {
    std::string content = sealed_abc();
    content[at] ^= 1;
    const auto digest = check_seal(file_with(content).get(), content.size());
    ASSERT_FALSE(digest.has_value()) << "byte " << at;
    EXPECT_EQ(digest.error().code(), StatusCode::kDataLoss) << "byte " << at;
  }
}

TEST(ArtifactSeal, every_missing_end_is_found) {
  for (std::size_t size = 0; size < sealed_abc().size(); ++size) {
    const auto digest = check_seal(file_with(sealed_abc().substr(0, size)).get(), size);
    ASSERT_FALSE(digest.has_value()) << size << " bytes";
    EXPECT_EQ(digest.error().code(), StatusCode::kDataLoss) << size << " bytes";
  }
}

TEST(ArtifactSeal, an_added_byte_is_found) {
  const std::string content = sealed_abc() + "x";
  EXPECT_FALSE(check_seal(file_with(content).get(), content.size()).has_value());
}

TEST(ArtifactSeal, a_file_longer_than_one_chunk_is_read_whole) {
  std::string content(3 * 256 * 1024 + 17, 'x');
  content += sealed_abc();
  const auto digest = check_seal(file_with(content).get(), content.size());
  ASSERT_FALSE(digest.has_value());
  EXPECT_THAT(digest.error().message(), HasSubstr("does not fit the content"));
}

TEST(ArtifactSeal, a_file_without_seal_is_told_how_to_get_one) {
  const std::string content(200, 'x');
  const auto digest = check_seal(file_with(content).get(), content.size());
  ASSERT_FALSE(digest.has_value());
  EXPECT_THAT(digest.error().message(), HasSubstr("never sealed"));
}

TEST(ArtifactSeal, a_file_that_shrinks_meanwhile_is_data_loss) {
  const std::string content = sealed_abc();
  const auto digest = check_seal(file_with(content).get(), content.size() + 100);
  ASSERT_FALSE(digest.has_value());
  EXPECT_EQ(digest.error().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace bucketd::torchscript
