// What a loaded model gives: kernel dispatch, buckets, dtypes, errors of a request.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backends/torchscript/testing/loaded_model.h"

namespace bucketd::torchscript {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::LoadedModel;
using testing::make_backend;
using ::testing::Not;
using testing::Tensor;

std::vector<Tensor> three_of_length(std::int64_t length) {
  std::vector<Tensor> inputs;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back(Tensor::counting<std::int64_t>({1, length}, 1000 * i + 1));
  }
  return inputs;
}

TEST(TorchScriptModel, the_guides_kernel_sends_122_to_128_and_444_to_512) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  for (const auto& [length, bucket] :
       {std::pair{1, 0u}, std::pair{122, 0u}, std::pair{128, 0u}, std::pair{129, 1u},
        std::pair{444, 1u}, std::pair{512, 1u}}) {
    auto reply = model.run(three_of_length(length));
    ASSERT_TRUE(reply.has_value()) << length << ": " << reply.error().to_string();
    EXPECT_EQ(reply->bucket, bucket) << length;
    const std::vector<std::int64_t> sums = reply->outputs[0].values<std::int64_t>();
    ASSERT_EQ(sums.size(), bucket == 0 ? 128u : 512u);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const auto n = static_cast<std::int64_t>(i);
      EXPECT_EQ(sums[i], n < length ? 3 * (n + 1) + 3000 : 0) << length << ", element " << i;
    }
  }
}

TEST(TorchScriptModel, the_guides_kernel_is_planned_for_every_length) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->description().planning, (KernelPlanSpec{KernelPlanning::kPlanned, ""}));
  for (const std::int64_t length : {1, 122, 128, 129, 444, 512}) {
    const std::vector<TensorSignature> signature(3, {DType::kInt64, Shape{1, length}});
    Plan plan;
    const Status status = model->plan(signature, plan);
    ASSERT_TRUE(status.ok()) << length << ": " << status.to_string();
    EXPECT_EQ(plan.bucket, length <= 128 ? 0u : 1u);
    EXPECT_TRUE(plan.is_padding);
  }
  Plan plan;
  EXPECT_FALSE(
      model->plan(std::vector<TensorSignature>(3, {DType::kInt64, Shape{1, 513}}), plan).ok());
  // Floats fit no bucket of this model: the kernel is run, and says so.
  EXPECT_EQ(
      model->plan(std::vector<TensorSignature>(3, {DType::kFloat32, Shape{1, 122}}), plan).code(),
      StatusCode::kInternal);
}

TEST(TorchScriptModel, a_kernel_that_converts_is_planned_where_that_is_exact) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "converting_kernel");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->description().planning.kind, KernelPlanning::kPlanned);
  Plan plan;
  ASSERT_TRUE(model->plan(std::vector<TensorSignature>{{DType::kInt8, Shape{3}}}, plan).ok());
  EXPECT_FALSE(plan.is_padding);
  EXPECT_EQ(plan.inputs[0].dtype, DType::kInt64);
  const Status status =
      model->plan(std::vector<TensorSignature>{{DType::kFloat32, Shape{3}}}, plan);
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), HasSubstr("aten::to: it converts float32 [3] to int64 [3]"));
}

TEST(TorchScriptModel, a_kernel_that_pads_by_the_masks_sum_is_unplanned_and_says_why) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "pads_by_mask");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->description().planning.kind, KernelPlanning::kUnplanned);
  EXPECT_EQ(model->description().planning.reason, "aten::sum: it reads numbers of an input");
  Plan plan;
  const std::vector<TensorSignature> signature(2, {DType::kInt64, Shape{1, 6}});
  EXPECT_EQ(model->plan(signature, plan).code(), StatusCode::kUnimplemented);
  std::vector<Tensor> inputs;
  inputs.push_back(Tensor::of<std::int64_t>({1, 6}, {1, 2, 3, 4, 5, 6}));
  inputs.push_back(Tensor::of<std::int64_t>({1, 6}, {1, 1, 1, 1, 0, 0}));
  auto reply = model.run(std::move(inputs));
  ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  EXPECT_EQ(reply->bucket, 0u);
  EXPECT_THAT(reply->outputs[0].values<std::int64_t>(), ElementsAre(2, 3, 4, 5));
}

TEST(TorchScriptModel, above_the_largest_bucket_is_out_of_range_with_sizes) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  const auto reply = model.run(three_of_length(513));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kOutOfRange);
  EXPECT_THAT(reply.error().message(), AllOf(HasSubstr("model 'script_kernel'"),
                                             HasSubstr("[1, 513]"), HasSubstr("[1, 512]")));
}

TEST(TorchScriptModel, a_kernel_that_raises_is_an_invalid_argument_without_traceback) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  std::vector<Tensor> inputs = three_of_length(122);
  inputs[1] = Tensor::counting<std::int64_t>({2, 3, 4}, 0);
  const auto reply = model.run(std::move(inputs));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(reply.error().message(),
              AllOf(HasSubstr("the bucket kernel fails"), HasSubstr("[2, 3, 4]"),
                    Not(HasSubstr("Traceback")), Not(HasSubstr("\n")), Not(HasSubstr("File"))));
}

TEST(TorchScriptModel, a_kernels_result_that_does_not_fit_is_internal) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  // The kernel pads with the first input's dtype; nothing here checks the caller's dtypes.
  std::vector<Tensor> inputs;
  for (int i = 0; i < 3; ++i) inputs.push_back(Tensor::counting<float>({1, 122}, 1));
  const auto reply = model.run(std::move(inputs));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kInternal);
  EXPECT_THAT(reply.error().message(),
              AllOf(HasSubstr("chose bucket 0"), HasSubstr("'input_ids' as float32 [1, 128]"),
                    HasSubstr("takes int64 [1, 128]")));
}

TEST(TorchScriptModel, a_kernel_may_convert_what_it_is_given) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "converting_kernel");
  ASSERT_TRUE(model);
  EXPECT_FALSE(model->description().checks_inputs);
  std::vector<Tensor> inputs;
  inputs.push_back(Tensor::of<std::int8_t>({3}, {4, 5, 6}));
  auto reply = model.run(std::move(inputs));
  ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  EXPECT_THAT(reply->outputs[0].values<std::int64_t>(), ElementsAre(5, 6, 7, 1, 1, 1, 1, 1));
}

TEST(TorchScriptModel, every_dtype_passes_through_bit_for_bit) {
  const auto backend = make_backend();
  for (int number = 1; is_known_dtype(static_cast<std::uint8_t>(number)); ++number) {
    const DType dtype = static_cast<DType>(number);
    LoadedModel model(*backend, "suite/identity_" + std::string(dtype_name(dtype)));
    ASSERT_TRUE(model);
    for (const std::int64_t length : {0, 1, 4, 5, 16}) {
      Tensor input(dtype, {length});
      for (std::size_t i = 0; i < input.size_bytes(); ++i) {
        // bool holds 0 and 1 only; all else may hold any bits.
        input.data()[i] = static_cast<std::byte>(dtype == DType::kBool ? i % 2 : 37 * i + 11);
      }
      const std::string sent(input.bytes());
      std::vector<Tensor> inputs;
      inputs.push_back(std::move(input));
      auto reply = model.run(std::move(inputs));
      ASSERT_TRUE(reply.has_value()) << dtype_name(dtype) << ": " << reply.error().to_string();
      const std::string got(reply->outputs[0].bytes());
      EXPECT_EQ(got.substr(0, sent.size()), sent) << dtype_name(dtype) << " " << length;
      EXPECT_THAT(got.substr(sent.size()), Each('\0')) << dtype_name(dtype) << " " << length;
    }
  }
}

TEST(TorchScriptModel, padded_inputs_skip_the_kernel_and_give_the_same) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "suite/multi");
  ASSERT_TRUE(model);
  std::vector<Tensor> raw;
  raw.push_back(Tensor::of<float>({1, 3}, {1, 2, 3}));
  raw.push_back(Tensor::of<std::int64_t>({1, 3}, {4, 5, 6}));
  auto by_kernel = model.run(std::move(raw));
  ASSERT_TRUE(by_kernel.has_value()) << by_kernel.error().to_string();
  std::vector<Tensor> padded;
  padded.push_back(Tensor::of<float>({1, 4}, {1, 2, 3, 0.5}));
  padded.push_back(Tensor::of<std::int64_t>({1, 4}, {4, 5, 6, 0}));
  auto wrapped = model.run_padded(0, padded);
  ASSERT_TRUE(wrapped.has_value()) << wrapped.error().to_string();
  for (std::size_t o = 0; o < 3; ++o) {
    EXPECT_EQ(wrapped->outputs[o].bytes(), by_kernel->outputs[o].bytes()) << "output " << o;
  }
  EXPECT_THAT(wrapped->outputs[0].values<float>(), ElementsAre(4, 10, 18, 0));
  EXPECT_THAT(wrapped->outputs[2].values<float>(), ElementsAre(6.5, 32, 15));
}

TEST(TorchScriptModel, a_bucket_that_writes_into_its_input_does_not_write_the_callers_memory) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "writes_input");
  ASSERT_TRUE(model);
  std::vector<Tensor> inputs;
  inputs.push_back(Tensor::of<float>({1, 4}, {1, 2, 3, 4}));
  for (int round = 0; round < 2; ++round) {
    auto reply = model.run_padded(0, inputs);
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    EXPECT_THAT(reply->outputs[0].values<float>(), ElementsAre(2, 3, 4, 5));
    EXPECT_THAT(inputs[0].values<float>(), ElementsAre(1, 2, 3, 4));
  }
}

TEST(TorchScriptModel, an_output_that_is_not_contiguous_arrives_contiguous) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "transposed");
  ASSERT_TRUE(model);
  std::vector<Tensor> inputs;
  inputs.push_back(Tensor::of<float>({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}));
  auto reply = model.run(std::move(inputs));
  ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  EXPECT_THAT(reply->outputs[0].values<float>(), ElementsAre(1, 5, 2, 6, 3, 7, 4, 8));
}

TEST(TorchScriptModel, equal_weights_of_two_buckets_are_held_once) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "equal_weights");
  ASSERT_TRUE(model);
  constexpr std::uint64_t kTableBytes = 4096 * sizeof(float);
  EXPECT_GE(model->resident_bytes(), kTableBytes);
  EXPECT_LT(model->resident_bytes(), kTableBytes * 11 / 10);
  for (std::size_t bucket = 0; bucket < 2; ++bucket) {
    const Shape& shape = model->description().buckets[bucket].inputs[0];
    const std::vector<float> ones(*shape.element_count(), 1);
    std::vector<Tensor> inputs;
    inputs.push_back(Tensor::of<float>(shape, ones));
    auto reply = model.run_padded(bucket, inputs);
    ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
    EXPECT_THAT(reply->outputs[0].values<float>(), Each(4096));
  }
}

TEST(TorchScriptModel, a_bucket_that_raises_says_so_in_one_line_and_serves_on) {
  const auto backend = make_backend();
  LoadedModel model(*backend, "raises_on_negative");
  ASSERT_TRUE(model);
  std::vector<Tensor> bad;
  bad.push_back(Tensor::of<float>({1, 2}, {1, -1}));
  const auto refused = model.run(std::move(bad));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error(),
            Status(StatusCode::kInternal,
                   "model 'raises_on_negative': bucket 0 fails: ValueError: negative numbers are"));
  std::vector<Tensor> good;
  good.push_back(Tensor::of<float>({1, 2}, {1, 2}));
  auto reply = model.run(std::move(good));
  ASSERT_TRUE(reply.has_value()) << reply.error().to_string();
  EXPECT_THAT(reply->outputs[0].values<float>(), ElementsAre(1, 2, 0, 0));
}

TEST(TorchScriptModel, executors_run_one_model_at_once_while_another_loads) {
  BackendOptions options;
  options.core_count = 4;
  const auto backend = make_backend(options);
  LoadedModel model(*backend, "suite/script_kernel");
  ASSERT_TRUE(model);
  std::vector<std::thread> executors;
  std::vector<int> wrong(4, -1);
  for (std::size_t executor = 0; executor < wrong.size(); ++executor) {
    executors.emplace_back([&, executor] {
      backend->prepare_executor_thread(executor);
      int count = 0;
      for (int round = 0; round < 200; ++round) {
        const std::int64_t length = 1 + (round * 37 + static_cast<int>(executor) * 131) % 512;
        std::vector<Tensor> inputs = three_of_length(length);
        auto reply = model.run(std::move(inputs));
        if (!reply || reply->bucket != (length <= 128 ? 0u : 1u)) {
          ++count;
          continue;
        }
        const auto sums = reply->outputs[0].values<std::int64_t>();
        for (std::size_t i = 0; i < sums.size(); ++i) {
          const auto n = static_cast<std::int64_t>(i);
          if (sums[i] != (n < length ? 3 * (n + 1) + 3000 : 0)) ++count;
        }
      }
      wrong[executor] = count;
    });
  }
  for (int round = 0; round < 5; ++round) {
    EXPECT_TRUE(LoadedModel(*backend, "suite/multi"));
  }
  for (std::thread& executor : executors) executor.join();
  EXPECT_THAT(wrong, Each(0));
}

}  // namespace
}  // namespace bucketd::torchscript
