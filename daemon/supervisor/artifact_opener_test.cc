#include "daemon/supervisor/artifact_opener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace bucketd::supervisor {
namespace {

using ::testing::HasSubstr;

class ArtifactOpenerTest : public ::testing::Test {
 protected:
  ArtifactOpenerTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "opener-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directories(folder_ / "root/sub");
    std::filesystem::create_directories(folder_ / "other");
    write("root/a.pt", "model a");
    write("root/sub/b.pt", "model b");
    write("other/secret", "secret");
  }
  ~ArtifactOpenerTest() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    ::chmod((folder_ / name).c_str(), 0644);
  }
  Status refusal(const std::string& path) const {
    const Result<OpenedArtifact> artifact = opener().open(path);
    return artifact ? Status() : artifact.error();
  }
  ArtifactOpener opener() const {
    return ArtifactOpener({(folder_ / "root").string(), (folder_ / "other").string()});
  }
  std::filesystem::path folder_;
};

TEST_F(ArtifactOpenerTest, opens_relative_and_absolute_paths_beneath_a_root) {
  for (const std::string& path : {std::string("a.pt"), std::string("sub/b.pt"),
                                  (folder_ / "root/a.pt").string(), std::string("secret")}) {
    const Result<OpenedArtifact> artifact = opener().open(path);
    ASSERT_TRUE(artifact.has_value()) << artifact.error().to_string();
    char text[16] = {};
    EXPECT_GT(::pread(artifact->fd.get(), text, sizeof(text), 0), 0);
    EXPECT_LT(::write(artifact->fd.get(), "x", 1), 0);
  }
}

TEST_F(ArtifactOpenerTest, identity_tells_files_and_contents_apart) {
  const ArtifactIdentity a = opener().open("a.pt")->identity;
  EXPECT_EQ(a, opener().open((folder_ / "root/a.pt").string())->identity);
  EXPECT_NE(a, opener().open("sub/b.pt")->identity);
  write("root/a.pt", "another model, longer");
  EXPECT_NE(a, opener().open("a.pt")->identity);
}

TEST_F(ArtifactOpenerTest, a_missing_file_is_not_found) {
  EXPECT_EQ(refusal("c.pt").code(), StatusCode::kNotFound);
  EXPECT_THAT(refusal("c.pt").message(), HasSubstr("'c.pt'"));
}

TEST_F(ArtifactOpenerTest, nothing_leads_out_of_the_roots) {
  EXPECT_EQ(refusal("../other/secret").code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(refusal("sub/../../other/secret").code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(refusal("/etc/passwd").code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(refusal((folder_ / "root").string()).code(), StatusCode::kPermissionDenied);
  // A prefix of a root's name is no root.
  std::filesystem::create_directory(folder_ / "root2");
  write("root2/x.pt", "x");
  EXPECT_EQ(refusal((folder_ / "root2/x.pt").string()).code(), StatusCode::kPermissionDenied);
}

TEST_F(ArtifactOpenerTest, links_are_not_followed) {
  std::filesystem::create_symlink(folder_ / "other/secret", folder_ / "root/link.pt");
  std::filesystem::create_symlink(folder_ / "root/a.pt", folder_ / "root/inner.pt");
  std::filesystem::create_directory_symlink(folder_ / "other", folder_ / "root/way");
  for (const char* path : {"link.pt", "inner.pt", "way/secret"}) {
    EXPECT_EQ(refusal(path).code(), StatusCode::kPermissionDenied) << path;
    EXPECT_THAT(refusal(path).message(), HasSubstr("link")) << path;
  }
}

TEST_F(ArtifactOpenerTest, only_regular_files_with_contents_are_artifacts) {
  EXPECT_EQ(refusal("sub").code(), StatusCode::kInvalidArgument);
  ASSERT_EQ(::mkfifo((folder_ / "root/pipe").c_str(), 0644), 0);
  EXPECT_EQ(refusal("pipe").code(), StatusCode::kInvalidArgument);
  write("root/empty.pt", "");
  EXPECT_THAT(refusal("empty.pt").message(), HasSubstr("is empty"));
  EXPECT_EQ(refusal("").code(), StatusCode::kInvalidArgument);
}

TEST_F(ArtifactOpenerTest, a_file_that_everybody_may_write_is_refused) {
  ::chmod((folder_ / "root/a.pt").c_str(), 0646);
  EXPECT_EQ(refusal("a.pt").code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refusal("a.pt").message(), HasSubstr("chmod o-w"));
}

TEST_F(ArtifactOpenerTest, a_file_of_another_user_is_refused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(::chown((folder_ / "root/a.pt").c_str(), 65534, 65534), 0);
  EXPECT_EQ(refusal("a.pt").code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refusal("a.pt").message(), HasSubstr("belongs to uid 65534"));
}

TEST(ModelNames, are_checked_and_made_from_files) {
  EXPECT_TRUE(is_model_name("bert-base_1.2"));
  EXPECT_FALSE(is_model_name(""));
  EXPECT_FALSE(is_model_name("a/b"));
  EXPECT_FALSE(is_model_name(std::string(65, 'a')));
  EXPECT_EQ(provisional_model_name("dir/some model.pt"), "some_model");
  EXPECT_TRUE(is_model_name(provisional_model_name("/x/" + std::string(200, 'y') + ".pt")));
}

}  // namespace
}  // namespace bucketd::supervisor
