// What the backend loads and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/backends/torchscript/testing/loaded_model.h"
#include "daemon/backends/torchscript/testing/temporary_file.h"

namespace bucketd::torchscript {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::LoadedModel;
using testing::make_backend;
using ::testing::Not;
using ::testing::StartsWith;
using testing::try_load;

std::string path_of(const std::string& name) {
  return std::string(BUCKETD_BACKEND_ARTIFACTS "/") + name + ".pt";
}

std::string content_of(const std::string& name) {
  std::ifstream file(path_of(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(TorchScriptBackend, version_names_libtorch_and_a_fast_blas) {
  EXPECT_THAT(make_backend()->version(),
              AllOf(StartsWith("torchscript "), Not(HasSubstr("reference BLAS"))));
}

TEST(TorchScriptBackend, every_test_artifact_loads) {
  const auto backend = make_backend();
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(BUCKETD_BACKEND_ARTIFACTS "/suite")) {
    if (entry.path().extension() != ".pt") continue;
    const auto model = try_load(*backend, entry.path().string());
    EXPECT_TRUE(model.has_value()) << entry.path() << ": " << model.error().to_string();
    ++count;
  }
  EXPECT_GE(count, 20);
}

TEST(TorchScriptBackend, every_mutated_artifact_is_refused_with_one_readable_line) {
  const auto backend = make_backend();
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(BUCKETD_BACKEND_ARTIFACTS "/mutated")) {
    if (entry.path().extension() != ".pt") continue;
    const auto model = try_load(*backend, entry.path().string());
    ++count;
    if (model.has_value()) {
      ADD_FAILURE() << entry.path() << " was loaded";
      continue;
    }
    const Status& status = model.error();
    EXPECT_TRUE(status.code() == StatusCode::kInvalidArgument ||
                status.code() == StatusCode::kDataLoss ||
                status.code() == StatusCode::kResourceExhausted)
        << entry.path() << ": " << status.to_string();
    EXPECT_THAT(status.message(),
                AllOf(Not(HasSubstr("\n")), Not(HasSubstr("Traceback")), Not(HasSubstr(".cpp")),
                      Not(HasSubstr(entry.path().filename().string())), Not(HasSubstr("/usr/"))))
        << entry.path();
    EXPECT_LT(status.message().size(), 700u) << entry.path();
  }
  EXPECT_GE(count, 200);
}

TEST(TorchScriptBackend, a_name_given_at_load_replaces_the_artifacts_own) {
  const auto backend = make_backend();
  const auto model = try_load(*backend, path_of("product"), "other");
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  EXPECT_EQ((*model)->description().name, "other");
  EXPECT_EQ((*model)->description().backend, "torchscript");
  EXPECT_EQ((*model)->description().digest.size(), 64u);
  const auto bad = try_load(*backend, path_of("product"), "not a name");
  ASSERT_FALSE(bad.has_value());
  EXPECT_THAT(bad.error().message(), HasSubstr("is not 1 to 64 characters"));
}

TEST(TorchScriptBackend, weights_that_buckets_share_are_held_once) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "product");
  ASSERT_TRUE(model);
  ASSERT_EQ(model->description().buckets.size(), 2u);
  EXPECT_EQ(model->resident_bytes(), 512u * 512 * 4);
}

TEST(TorchScriptBackend, the_descriptors_position_does_not_matter_and_it_stays_open) {
  const auto backend = make_backend();
  const UniqueFd fd = testing::file_with(content_of("product"));  // its position is the end
  for (int round = 0; round < 2; ++round) {
    const auto model = backend->load(fd.get(), "");
    EXPECT_TRUE(model.has_value()) << model.error().to_string();
  }
}

TEST(TorchScriptBackend, a_model_above_the_memory_limit_is_refused) {
  BackendOptions options;
  options.model_bytes_limit = 1000;
  const auto model = try_load(*make_backend(options), path_of("guide_states"));
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(model.error().message(),
              AllOf(HasSubstr("model 'guide_states'"), HasSubstr("at most 1000 are allowed")));
}

TEST(TorchScriptBackend, a_state_copied_by_the_preprocessor_is_refused_where_it_is_updated) {
  const auto backend = make_backend();
  for (const char* name : {"copied_state_aliased", "copied_state_in_place"}) {
    const auto model = try_load(*backend, path_of(name));
    ASSERT_FALSE(model.has_value()) << name;
    EXPECT_THAT(model.error().message(), HasSubstr("the update would be lost")) << name;
  }
}

TEST(TorchScriptBackend, a_tensor_that_reaches_beyond_its_storage_is_refused) {
  const auto model = try_load(*make_backend(), path_of("beyond_storage"));
  ASSERT_FALSE(model.has_value());
  EXPECT_THAT(model.error().message(),
              HasSubstr("a tensor float32 [9] reaches beyond its storage"));
}

TEST(TorchScriptBackend, what_is_no_regular_file_is_refused) {
  const auto backend = make_backend();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const auto model = backend->load(read_end.get(), "");
  ASSERT_FALSE(model.has_value());
  EXPECT_THAT(model.error().message(), HasSubstr("not a regular file"));
  EXPECT_FALSE(backend->load(-1, "").has_value());
}

TEST(TorchScriptBackend, an_operator_library_that_is_not_there_is_an_error_that_names_it) {
  BackendOptions options;
  options.operator_libraries = {"/nonexistent/liboperators.so"};
  const auto backend = make_torchscript_backend(options);
  ASSERT_FALSE(backend.has_value());
  EXPECT_THAT(backend.error().message(), HasSubstr("/nonexistent/liboperators.so"));
}

TEST(TorchScriptBackend, operators_of_a_listed_library_are_available) {
  const auto refused =
      try_load(*make_backend(), BUCKETD_FAILING_ARTIFACTS "/throw_error_when_asked.pt");
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message(), HasSubstr("bucketd_test::throw_error"));

  BackendOptions options;
  options.operator_libraries = {BUCKETD_TEST_OPERATORS};
  const auto backend = make_backend(options);
  const auto model = try_load(*backend, BUCKETD_FAILING_ARTIFACTS "/throw_error_when_asked.pt");
  EXPECT_TRUE(model.has_value()) << model.error().to_string();
  const auto loading =
      try_load(*backend, BUCKETD_FAILING_ARTIFACTS "/throw_error_while_loading.pt");
  ASSERT_FALSE(loading.has_value());
  EXPECT_THAT(loading.error().message(), HasSubstr("throw_error was asked to raise"));
}

// A crash is only seen from outside: each in a process of its own.
using TorchScriptBackendDeathTest = ::testing::TestWithParam<std::pair<const char*, int>>;

TEST_P(TorchScriptBackendDeathTest, an_artifact_that_crashes_while_loading_does) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const char* when : {"_in_warm_up", "_while_loading"}) {
    const auto load = [&] {
      BackendOptions options;
      options.operator_libraries = {BUCKETD_TEST_OPERATORS};
      const auto backend = make_backend(options);
      const std::string name = std::string(GetParam().first) + when;
      const auto model =
          try_load(*backend, std::string(BUCKETD_FAILING_ARTIFACTS "/") + name + ".pt");
      std::exit(model.has_value() ? 100 : 101);
    };
    const int expected = GetParam().second;
    EXPECT_EXIT(
        load(),
        [expected](int status) {
          return expected < 0 ? WIFSIGNALED(status) && WTERMSIG(status) == -expected
                              : WIFEXITED(status) && WEXITSTATUS(status) == expected;
        },
        "")
        << GetParam().first << when;
  }
}

INSTANTIATE_TEST_SUITE_P(, TorchScriptBackendDeathTest,
                         ::testing::Values(std::pair{"abort", -SIGABRT}, std::pair{"exit", 3}));

}  // namespace
}  // namespace bucketd::torchscript
