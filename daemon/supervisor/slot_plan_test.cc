#include "daemon/supervisor/slot_plan.h"

#include <gtest/gtest.h>

#include "daemon/supervisor/user_accounts.h"

namespace bucketd::supervisor {
namespace {

// One float32 input and output of `elements`.
ModelDescription model_of(std::int64_t elements) {
  ModelDescription model;
  model.name = "m";
  model.inputs = {{"x", DType::kFloat32}};
  model.outputs = {{"y", DType::kFloat32}};
  model.buckets = {{{Shape{elements}}, {Shape{elements}}, {}}};
  return model;
}

SlotPlan plan(const ModelDescription& model, std::uint32_t configured, std::uint32_t requested,
              const LimitsConfiguration& limits = {}) {
  const Result<SlotPlan> result = plan_slots(model, configured, requested, limits);
  if (result) return *result;
  ADD_FAILURE() << result.error().to_string();
  return {};
}

TEST(SlotPlan, inputs_have_room_for_twice_the_largest_bucket) {
  const SlotPlan made = plan(model_of(1 << 20), 0, 0);
  EXPECT_EQ(made.max_request_bytes, 8u << 20);
  EXPECT_GE(made.layout.input_slot_bytes, (8u << 20) + input_payload_offset(1));
  EXPECT_GE(made.layout.output_slot_bytes, (4u << 20) + output_payload_offset(1, 1));
  EXPECT_TRUE(is_consistent(made.layout));
}

TEST(SlotPlan, outputs_have_room_for_an_error_text) {
  EXPECT_GE(plan(model_of(1), 0, 0).layout.output_slot_bytes, kMaxMessageBytes);
}

TEST(SlotPlan, a_model_that_takes_what_its_kernel_takes_gets_the_configured_size) {
  ModelDescription model = model_of(16);
  model.checks_inputs = false;
  EXPECT_EQ(plan(model, 0, 0, {.max_request_bytes = 1 << 20}).max_request_bytes, 1u << 20);
}

TEST(SlotPlan, the_budget_decides_the_number_of_slots_from_2_to_64) {
  EXPECT_EQ(plan(model_of(16), 0, 0).layout.slot_count, 64u);
  EXPECT_EQ(plan(model_of(1 << 20), 0, 0).layout.slot_count, 4u);  // 12 MiB each, 64 MiB
  EXPECT_EQ(plan(model_of(1 << 24), 0, 0).layout.slot_count, 2u);
}

TEST(SlotPlan, configuration_and_client_change_the_number_within_limits) {
  EXPECT_EQ(plan(model_of(16), 5, 0).layout.slot_count, 8u);
  EXPECT_EQ(plan(model_of(16), 5, 64).layout.slot_count, 8u);
  EXPECT_EQ(plan(model_of(16), 0, 1).layout.slot_count, 1u);
  EXPECT_EQ(plan(model_of(16), 0, 200).layout.slot_count, 256u);
  EXPECT_EQ(plan(model_of(16), 0, 1u << 31).layout.slot_count, 1024u);
  EXPECT_EQ(plan(model_of(1 << 20), 0, 64).layout.slot_count, 4u);
}

TEST(SlotPlan, a_model_too_large_for_any_lane_is_refused) {
  const Result<SlotPlan> huge = plan_slots(model_of(std::int64_t{1} << 40), 0, 0, {});
  ASSERT_FALSE(huge.has_value());
  EXPECT_EQ(huge.error().code(), StatusCode::kResourceExhausted);
}

TEST(UserAccounts, charges_return_to_zero_and_limits_are_kept) {
  UserAccounts accounts({.max_connections_per_user = 2}, {});
  {
    Result<Charge> first = accounts.charge(7, Resource::kConnections, 1);
    ASSERT_TRUE(first.has_value());
    const Result<Charge> second = accounts.charge(7, Resource::kConnections, 1);
    ASSERT_TRUE(second.has_value());
    const Result<Charge> third = accounts.charge(7, Resource::kConnections, 1);
    ASSERT_FALSE(third.has_value());
    EXPECT_EQ(third.error().code(), StatusCode::kResourceExhausted);
    EXPECT_NE(third.error().message().find("limits.max_connections_per_user"), std::string::npos);
    EXPECT_TRUE(accounts.charge(8, Resource::kConnections, 1).has_value());
    const Charge moved = std::move(*first);
    EXPECT_EQ(accounts.held(7, Resource::kConnections), 2u);
  }
  EXPECT_EQ(accounts.held(7, Resource::kConnections), 0u);
  EXPECT_EQ(accounts.user_count(), 0u);
  EXPECT_FALSE(accounts.charge(7, Resource::kSharedBytes, ~std::uint64_t{0}).has_value());
}

}  // namespace
}  // namespace bucketd::supervisor
