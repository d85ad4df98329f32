#include "daemon/supervisor/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bucketd::supervisor {
namespace {

using ::testing::HasSubstr;

ModelDescription described(const std::string& name) {
  ModelDescription description;
  description.name = name;
  return description;
}

class ModelRegistryTest : public ::testing::Test {
 protected:
  GenerationPtr begin(const std::string& name, bool may_replace = false) {
    const Result<GenerationPtr> generation =
        registry_.begin_load({.name = name, .path = "x.pt", .may_replace = may_replace});
    if (generation) return *generation;
    ADD_FAILURE() << generation.error().to_string();
    return nullptr;
  }
  GenerationPtr load(const std::string& name) {
    GenerationPtr generation = begin(name);
    EXPECT_TRUE(registry_.load_succeeded(generation->model_id, described(name)).has_value());
    return generation;
  }
  ModelState state(const std::string& name) const { return registry_.find(name)->state; }

  ModelRegistry registry_;
  const Status reason_{StatusCode::kDataLoss, "its seal is broken"};
};

TEST_F(ModelRegistryTest, a_load_makes_a_model_ready) {
  const GenerationPtr generation = begin("m");
  EXPECT_EQ(state("m"), ModelState::kLoading);
  const auto success = registry_.load_succeeded(generation->model_id, described("m"));
  ASSERT_TRUE(success.has_value());
  EXPECT_EQ(success->replaced, nullptr);
  EXPECT_TRUE(success->is_first);
  EXPECT_EQ(state("m"), ModelState::kReady);
  EXPECT_EQ(registry_.find("m")->serving, generation);
}

TEST_F(ModelRegistryTest, a_failed_load_says_why_and_can_be_tried_again) {
  registry_.load_failed(begin("m")->model_id, reason_, false);
  EXPECT_EQ(state("m"), ModelState::kFailed);
  EXPECT_EQ(registry_.find("m")->reason, reason_);
  load("m");
  EXPECT_EQ(state("m"), ModelState::kReady);
  EXPECT_TRUE(registry_.find("m")->reason.ok());
}

TEST_F(ModelRegistryTest, a_quarantined_model_is_told_from_a_failed_one) {
  registry_.load_failed(begin("m")->model_id, reason_, true);
  EXPECT_EQ(state("m"), ModelState::kQuarantined);
}

TEST_F(ModelRegistryTest, a_failed_reload_keeps_the_old_generation_serving) {
  const GenerationPtr first = load("m");
  const GenerationPtr second = begin("m", true);
  EXPECT_EQ(state("m"), ModelState::kReady);
  registry_.load_failed(second->model_id, reason_, true);
  EXPECT_EQ(state("m"), ModelState::kReady);
  EXPECT_EQ(registry_.find("m")->serving, first);
  EXPECT_THAT(registry_.find("m")->reason.message(), HasSubstr("the last reload failed"));
}

TEST_F(ModelRegistryTest, a_reload_swaps_and_the_old_generation_retires) {
  const GenerationPtr first = load("m");
  const GenerationPtr second = begin("m", true);
  const auto success = registry_.load_succeeded(second->model_id, described("m"));
  ASSERT_TRUE(success.has_value());
  EXPECT_EQ(success->replaced, first);
  EXPECT_EQ(registry_.find("m")->serving, second);
  EXPECT_GT(second->number, first->number);
  EXPECT_EQ(registry_.generation(first->model_id), first);
  registry_.unloaded(first->model_id);
  EXPECT_EQ(registry_.generation(first->model_id), nullptr);
  EXPECT_EQ(registry_.find("m")->serving, second);
}

TEST_F(ModelRegistryTest, a_name_in_use_is_refused_unless_it_may_be_replaced) {
  load("m");
  const auto again = registry_.begin_load({.name = "m", .path = "y.pt"});
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code(), StatusCode::kAlreadyExists);
  begin("m", true);
  const auto third = registry_.begin_load({.name = "m", .path = "y.pt", .may_replace = true});
  ASSERT_FALSE(third.has_value());
  EXPECT_EQ(third.error().code(), StatusCode::kFailedPrecondition);
}

TEST_F(ModelRegistryTest, an_artifacts_own_name_is_held_to_the_rules_of_names) {
  const GenerationPtr generation = *registry_.begin_load({.path = "dir/file.pt"});
  const auto success = registry_.load_succeeded(generation->model_id, described("no name\n"));
  ASSERT_FALSE(success.has_value());
  EXPECT_EQ(success.error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(state("file"), ModelState::kFailed);
}

TEST_F(ModelRegistryTest, limits_hold_for_generations_that_retire_too) {
  using std::chrono::milliseconds;
  const GenerationPtr first =
      *registry_.begin_load({.name = "m", .path = "x.pt", .execution_limit = milliseconds(5)});
  ASSERT_TRUE(registry_.load_succeeded(first->model_id, described("m")).has_value());
  const GenerationPtr second = begin("m", true);
  ASSERT_TRUE(registry_.load_succeeded(second->model_id, described("m")).has_value());
  EXPECT_EQ(registry_.smallest_execution_limit(0, milliseconds(100)), milliseconds(5));
  EXPECT_EQ(registry_.smallest_execution_limit(1, milliseconds(100)), milliseconds(100));
  registry_.unloaded(first->model_id);
  EXPECT_EQ(registry_.smallest_execution_limit(0, milliseconds(100)), milliseconds(100));
}

TEST_F(ModelRegistryTest, an_unnamed_model_takes_its_artifacts_name) {
  const GenerationPtr generation = *registry_.begin_load({.path = "dir/file.pt"});
  EXPECT_NE(registry_.find("file"), nullptr);
  EXPECT_TRUE(registry_.has_unnamed_candidate());
  ASSERT_TRUE(registry_.load_succeeded(generation->model_id, described("own")).has_value());
  EXPECT_EQ(registry_.find("file"), nullptr);
  EXPECT_EQ(state("own"), ModelState::kReady);
  EXPECT_FALSE(registry_.has_unnamed_candidate());
}

TEST_F(ModelRegistryTest, unnamed_models_of_equal_files_do_not_collide) {
  const GenerationPtr a = *registry_.begin_load({.path = "a/file.pt"});
  const GenerationPtr b = *registry_.begin_load({.path = "b/file.pt"});
  EXPECT_NE(a->name, b->name);
  ASSERT_TRUE(registry_.load_succeeded(a->model_id, described("own")).has_value());
  const auto second = registry_.load_succeeded(b->model_id, described("own"));
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(registry_.find("own")->serving, a);
  EXPECT_EQ(state(b->name), ModelState::kFailed);
}

TEST_F(ModelRegistryTest, an_unnamed_reload_replaces_the_model_of_the_artifacts_name) {
  const GenerationPtr first = load("own");
  const GenerationPtr second = *registry_.begin_load({.path = "dir/file.pt", .may_replace = true});
  const auto success = registry_.load_succeeded(second->model_id, described("own"));
  ASSERT_TRUE(success.has_value());
  EXPECT_EQ(success->replaced, first);
  EXPECT_EQ(registry_.find("file"), nullptr);
}

TEST_F(ModelRegistryTest, a_lost_worker_takes_its_models_away_until_they_are_loaded_again) {
  const GenerationPtr first = load("m");
  EXPECT_TRUE(registry_.worker_lost(1).empty());
  EXPECT_THAT(registry_.worker_lost(0), ::testing::ElementsAre(first));
  EXPECT_EQ(state("m"), ModelState::kLoading);
  EXPECT_FALSE(first->is_on_worker);
  const auto success = registry_.load_succeeded(first->model_id, described("m"));
  ASSERT_TRUE(success.has_value());
  EXPECT_FALSE(success->is_first);
  EXPECT_EQ(state("m"), ModelState::kReady);
}

TEST_F(ModelRegistryTest, a_model_that_cannot_be_loaded_again_fails) {
  const GenerationPtr first = load("m");
  registry_.worker_lost(0);
  registry_.load_failed(first->model_id, reason_, true);
  EXPECT_EQ(state("m"), ModelState::kQuarantined);
  EXPECT_EQ(registry_.find("m")->serving, nullptr);
  EXPECT_TRUE(registry_.worker_lost(0).empty());
}

TEST_F(ModelRegistryTest, unloading_ends_when_the_worker_says_so) {
  const GenerationPtr first = load("m");
  const auto unloading = registry_.begin_unload("m");
  ASSERT_TRUE(unloading.has_value());
  EXPECT_EQ(*unloading, first);
  EXPECT_EQ(state("m"), ModelState::kUnloading);
  EXPECT_EQ(registry_.begin_unload("m").error().code(), StatusCode::kFailedPrecondition);
  registry_.unloaded(first->model_id);
  EXPECT_EQ(registry_.find("m"), nullptr);
}

TEST_F(ModelRegistryTest, unloading_ends_with_the_worker) {
  load("m");
  ASSERT_TRUE(registry_.begin_unload("m").has_value());
  EXPECT_TRUE(registry_.worker_lost(0).empty());
  EXPECT_EQ(registry_.find("m"), nullptr);
}

TEST_F(ModelRegistryTest, a_failed_model_is_unloaded_at_once) {
  registry_.load_failed(begin("m")->model_id, reason_, false);
  const auto unloading = registry_.begin_unload("m");
  ASSERT_TRUE(unloading.has_value());
  EXPECT_EQ(*unloading, nullptr);
  EXPECT_EQ(registry_.find("m"), nullptr);
}

TEST_F(ModelRegistryTest, a_load_that_ends_after_its_model_was_unloaded_is_unknown) {
  const GenerationPtr first = load("m");
  registry_.worker_lost(0);
  ASSERT_TRUE(registry_.begin_unload("m").has_value());
  const auto late = registry_.load_succeeded(first->model_id, described("m"));
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code(), StatusCode::kNotFound);
}

TEST_F(ModelRegistryTest, not_found_names_what_there_is) {
  EXPECT_EQ(registry_.not_found("x").message(), "no model named 'x'; there are none");
  load("bert");
  load("gpt");
  EXPECT_EQ(registry_.not_found("brt").message(), "no model named 'brt'; there are: bert, gpt");
  for (int i = 0; i < 40; ++i) load("model" + std::to_string(i));
  EXPECT_THAT(registry_.not_found("brt").message(), HasSubstr("and 10 more"));
}

}  // namespace
}  // namespace bucketd::supervisor
