// What comes back: every dtype and rank, sizes around every bucket, raw and padded, cropped and
// whole.
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "tests/conformance/conformance.h"

namespace bucketd::test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Calls twice as the client likes it (raw, then padded once it knows the plan) and once forced raw;
// all three must agree.
Answer call_in_every_layout(Model& model, std::initializer_list<Tensor> inputs) {
  const Result<Answer> first = call(model, inputs);
  const Result<Answer> second = call(model, inputs);
  const Result<Answer> raw = call(model, inputs, {.force_raw = true});
  for (const Result<Answer>* answer : {&first, &second, &raw}) {
    if (!*answer) {
      ADD_FAILURE() << answer->error().to_string();
      return {};
    }
  }
  EXPECT_FALSE(raw->was_padded);
  EXPECT_EQ(first->bucket, second->bucket);
  EXPECT_EQ(first->bucket, raw->bucket);
  EXPECT_EQ(first->outputs, second->outputs);
  EXPECT_EQ(first->outputs, raw->outputs);
  return *second;
}

TEST_P(Conformance, every_dtype_comes_back_at_every_size_from_zero_to_the_largest_bucket) {
  for (std::uint8_t number = 1; is_known_dtype(number); ++number) {
    const auto dtype = static_cast<DType>(number);
    SCOPED_TRACE(dtype_name(dtype));
    Model model = open("identity_" + std::string(dtype_name(dtype)));
    for (std::int64_t size = 0; size <= 16; ++size) {
      SCOPED_TRACE(size);
      const Tensor x = patterned(dtype, {size}, static_cast<unsigned>(size));
      const Answer answer = call_in_every_layout(model, {x});
      ASSERT_EQ(answer.outputs.size(), 1u);
      EXPECT_EQ(answer.outputs[0], x);
      EXPECT_EQ(answer.bucket, size <= 4 ? 0u : size <= 8 ? 1u : 2u);
    }
  }
}

TEST_P(Conformance, every_rank_comes_back) {
  for (std::size_t rank = 0; rank <= kMaxRank; ++rank) {
    Model model = open("rank_" + std::to_string(rank));
    for (std::int64_t size = 1; size <= (rank == 0 ? 1 : 4); ++size) {
      SCOPED_TRACE("rank " + std::to_string(rank) + ", size " + std::to_string(size));
      std::vector<std::int64_t> dims(rank, 3);
      if (rank > 0) dims[0] = size;
      const Shape shape = *Shape::from(dims);
      std::vector<float> values(*shape.element_count());
      std::iota(values.begin(), values.end(), 0.5F);
      std::vector<float> expected = values;
      for (float& value : expected) value += 1;
      const Answer answer = call_in_every_layout(model, {tensor<float>(shape, values)});
      ASSERT_EQ(answer.outputs.size(), 1u);
      EXPECT_EQ(answer.outputs[0], tensor<float>(shape, expected));
      EXPECT_EQ(answer.bucket, rank > 0 && size > 2 ? 1u : 0u);
    }
  }
}

TEST_P(Conformance, two_padded_dims_find_the_first_bucket_that_holds_both) {
  Model model = open("two_dims");
  const auto bucket_of = [&](std::int64_t rows, std::int64_t columns) {
    const Tensor x = filled<float>({rows, columns}, 2);
    const Answer answer = call_in_every_layout(model, {x});
    EXPECT_THAT(answer.outputs, ElementsAre(filled<float>({rows, columns}, 3)));
    return answer.bucket;
  };
  EXPECT_EQ(bucket_of(1, 1), 0u);
  EXPECT_EQ(bucket_of(8, 8), 0u);
  EXPECT_EQ(bucket_of(7, 9), 1u);
  EXPECT_EQ(bucket_of(9, 7), 1u);
  EXPECT_EQ(bucket_of(16, 16), 1u);
  EXPECT_EQ(bucket_of(8, 17), 2u);
  EXPECT_EQ(bucket_of(1, 32), 2u);
}

TEST_P(Conformance, left_padding_is_cropped_from_the_end_and_seen_in_the_full_output) {
  Model model = open("left_pad");
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Tensor x = tensor<std::int64_t>({1, 3}, {5, 6, 7});
    Result<Request> request = prepare(model, std::span(&x, 1));
    ASSERT_TRUE(request) << request.error().to_string();
    const Result<Reply> reply = std::move(*request).run();
    ASSERT_TRUE(reply) << reply.error().to_string();
    EXPECT_THAT(reply->output<std::int64_t>(0).to_vector(), ElementsAre(10, 12, 14));
    EXPECT_THAT(reply->full_output<std::int64_t>(0).to_vector(), ElementsAre(-2, 10, 12, 14));
    EXPECT_EQ(reply->bucket(), 0u);
  }
}

TEST_P(Conformance, the_guides_kernel_pads_all_inputs_around_its_bucket_boundaries) {
  Model model = open("script_kernel");
  for (const std::int64_t tokens : {1, 122, 127, 128, 129, 444, 511, 512}) {
    SCOPED_TRACE(tokens);
    const Shape shape{1, tokens};
    const Answer answer = call_in_every_layout(
        model, {patterned(DType::kInt64, shape, 1), filled<std::int64_t>(shape, 1),
                filled<std::int64_t>(shape, 0)});
    std::vector<std::int64_t> expected = patterned(DType::kInt64, shape, 1).values<std::int64_t>();
    for (std::int64_t& value : expected) value += 1;
    EXPECT_THAT(answer.outputs, ElementsAre(tensor<std::int64_t>(shape, expected)));
    EXPECT_EQ(answer.bucket, tokens <= 128 ? 0u : 1u);
  }
}

TEST_P(Conformance, every_input_is_padded_with_its_own_value) {
  Model model = open("multi");
  for (const std::int64_t size : {1, 3, 4, 5, 7, 8}) {
    SCOPED_TRACE(size);
    const Shape shape{1, size};
    const auto count = static_cast<float>(size);
    const float padding = size <= 4 ? 4 - count : 8 - count;
    const Answer answer =
        call_in_every_layout(model, {filled<float>(shape, 2), filled<std::int64_t>(shape, 3)});
    EXPECT_THAT(
        answer.outputs,
        ElementsAre(filled<float>(shape, 6), filled<std::int64_t>(shape, 6),
                    tensor<float>({1, 3}, {2 * count + 0.5F * padding, 6 * count, 3 * count})));
  }
}

TEST_P(Conformance, a_model_of_one_static_shape_takes_exactly_that) {
  Model model = open("static_one");
  const Answer answer = call_in_every_layout(model, {filled<float>({2, 3}, -1)});
  EXPECT_THAT(answer.outputs, ElementsAre(filled<float>({2, 3}, 0)));
}

TEST_P(Conformance, the_second_request_of_a_signature_is_padded_in_place) {
  Model model = open("multi");
  const auto inputs = {filled<float>({1, 3}, 1), filled<std::int64_t>({1, 3}, 1)};
  const Result<Answer> first = call(model, inputs);
  ASSERT_TRUE(first) << first.error().to_string();
  EXPECT_FALSE(first->was_padded) << "no plan can be known yet";
  const Result<Answer> second = call(model, inputs);
  ASSERT_TRUE(second) << second.error().to_string();
  EXPECT_TRUE(second->was_padded);
}

TEST_P(Conformance, the_description_is_the_artifacts) {
  Client client = connect();
  const Result<ModelDescription> model = client.describe("multi");
  ASSERT_TRUE(model) << model.error().to_string();
  EXPECT_EQ(model->name, "multi");
  ASSERT_EQ(model->inputs.size(), 2u);
  EXPECT_EQ(model->inputs[1], (TensorSpec{"marks", DType::kInt64}));
  ASSERT_EQ(model->outputs.size(), 3u);
  ASSERT_EQ(model->buckets.size(), 2u);
  EXPECT_EQ(model->buckets[1].inputs[0], (Shape{1, 8}));
  EXPECT_EQ(model->kernel, KernelKind::kPad);
  EXPECT_EQ(model->digest.size(), 64u);
  EXPECT_TRUE(validate(*model).ok());
}

}  // namespace
}  // namespace bucketd::test
