// What is refused: each error has its code, names model, input, dimension and limit, is the same
// whether the client library or the daemon finds it, and costs nothing but the request itself.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/conformance.h"

namespace bucketd::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Refusal {
  std::string what;
  std::string model;
  std::vector<Tensor> inputs;
  StatusCode code;
  std::vector<std::string> words;  // that the text must contain
};

std::vector<Refusal> refusals() {
  const Tensor ids = filled<std::int64_t>({1, 8}, 1);
  const Tensor long_ids = filled<std::int64_t>({1, 513}, 1);
  const Tensor empty_ids = filled<std::int64_t>({1, 0}, 1);
  return {
      {"one over the largest bucket",
       "script_kernel",
       {long_ids, long_ids, long_ids},
       StatusCode::kOutOfRange,
       {"script_kernel", "input_ids", "dimension 1", "513", "512"}},
      {"empty",
       "script_kernel",
       {empty_ids, empty_ids, empty_ids},
       StatusCode::kInvalidArgument,
       {"script_kernel", "input_ids", "dimension 1", "0", "1"}},
      {"wrong dtype",
       "script_kernel",
       {ids, filled<float>({1, 8}, 1), ids},
       StatusCode::kInvalidArgument,
       {"script_kernel", "attention_mask", "float32", "int64"}},
      {"wrong rank",
       "script_kernel",
       {ids, ids, filled<std::int64_t>({8}, 1)},
       StatusCode::kInvalidArgument,
       {"script_kernel", "token_type_ids", "1", "2"}},
      {"too few inputs",
       "script_kernel",
       {ids, ids},
       StatusCode::kInvalidArgument,
       {"script_kernel", "2", "3"}},
      {"too many inputs",
       "script_kernel",
       {ids, ids, ids, ids},
       StatusCode::kInvalidArgument,
       {"script_kernel", "4", "3"}},
      {"a fixed dimension of another size",
       "static_one",
       {filled<float>({2, 4}, 1)},
       StatusCode::kInvalidArgument,
       {"static_one", "dimension 1", "4", "3"}},
  };
}

// Whether client and daemon say the same is compared; the message says which differs.
TEST_P(Conformance, what_does_not_fit_is_refused_by_the_daemon_with_a_text_that_says_what_would) {
  for (const Refusal& refusal : refusals()) {
    SCOPED_TRACE(refusal.what);
    Model model = open(refusal.model);
    const Result<Answer> answer = call(model, refusal.inputs, {.unchecked = true});
    ASSERT_FALSE(answer) << "accepted";
    EXPECT_EQ(answer.error().code(), refusal.code) << answer.error().to_string();
    for (const std::string& word : refusal.words) {
      EXPECT_THAT(answer.error().message(), HasSubstr(word));
    }
    EXPECT_EQ(model.free_slot_count(), model.slot_count()) << "the slot did not come back";
  }
}

TEST_P(Conformance, the_client_library_refuses_with_the_daemons_own_words) {
  for (const Refusal& refusal : refusals()) {
    SCOPED_TRACE(refusal.what);
    if (refusal.what == "wrong dtype") continue;  // new_request has the model's own dtypes
    Model model = open(refusal.model);
    const Result<Answer> checked = call(model, refusal.inputs);
    const Result<Answer> unchecked = call(model, refusal.inputs, {.unchecked = true});
    ASSERT_FALSE(checked) << "accepted";
    ASSERT_FALSE(unchecked) << "accepted";
    EXPECT_EQ(checked.error(), unchecked.error()) << checked.error().to_string() << "\n"
                                                  << unchecked.error().to_string();
  }
}

TEST_P(Conformance, sizes_that_fit_no_bucket_together_are_refused) {
  Model model = open("two_dims");
  const Result<Answer> answer = call(model, {filled<float>({12, 20}, 1)}, {.unchecked = true});
  ASSERT_FALSE(answer) << "accepted";
  EXPECT_EQ(answer.error().code(), StatusCode::kOutOfRange) << answer.error().to_string();
  EXPECT_THAT(answer.error().message(), AllOf(HasSubstr("two_dims"), HasSubstr("12")));
}

TEST_P(Conformance, an_unknown_model_is_refused_with_the_names_of_those_that_exist) {
  Client client = connect();
  const Result<Model> model = client.open("brt");
  ASSERT_FALSE(model) << "opened";
  EXPECT_EQ(model.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(model.error().message(), AllOf(HasSubstr("brt"), HasSubstr("multi")));
  const Result<ModelDescription> description = client.describe("brt");
  ASSERT_FALSE(description) << "described";
  EXPECT_EQ(description.error().code(), StatusCode::kNotFound);
}

TEST_P(Conformance, a_refusal_costs_nothing_but_its_request) {
  Model model = open("multi");
  const Tensor values = filled<float>({1, 4}, 1);
  const Tensor marks = filled<std::int64_t>({1, 4}, 1);
  const Result<Answer> expected = call(model, {values, marks});
  ASSERT_TRUE(expected) << expected.error().to_string();
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(call(model, {values}, {.unchecked = true}));
    EXPECT_FALSE(call(model, {marks, values}, {.unchecked = true}));
    const Result<Answer> answer = call(model, {values, marks});
    ASSERT_TRUE(answer) << answer.error().to_string();
    EXPECT_EQ(answer->outputs, expected->outputs);
  }
}

}  // namespace
}  // namespace bucketd::test
