// Which kernels have plans, and that their plans do what they do. Kernels here are TorchScript in
// text; plans are compared with LibTorch's interpreter bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/backends/torchscript/testing/planned_kernel.h"
#include "daemon/plans/element_conversion.h"

namespace bucketd::torchscript {
namespace {

using ::testing::HasSubstr;
using testing::PlannedKernel;
using ::testing::StartsWith;
using Signature = std::vector<TensorSignature>;

class KernelRecorderTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { testing::configure_like_the_backend(); }
};

const Signature kFloatMatrix{{DType::kFloat32, Shape{2, 3}}};

// A kernel whose body works on `x`, the first input, and ends with a return.
std::string kernel_of(const std::string& body) {
  return "def kernel(inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:\n    x = inputs[0]\n" +
         body;
}

std::string returning(const std::string& expression) {
  return kernel_of("    return [" + expression + "], torch.tensor([0])\n");
}

void expect_planned(const std::string& source, const Signature& signature = kFloatMatrix,
                    bool is_padding = false) {
  SCOPED_TRACE(source);
  const PlannedKernel kernel(source);
  Plan plan;
  const Status status = kernel.plan(signature, plan);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(plan.is_padding, is_padding);
  EXPECT_EQ(kernel.difference(signature, plan, 8), "");
}

void expect_unplanned(const std::string& source, const std::string& text,
                      const Signature& signature = kFloatMatrix) {
  SCOPED_TRACE(source);
  Plan plan;
  const Status status = PlannedKernel(source).plan(signature, plan);
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr(text));
}

constexpr const char* kGuidesKernel = R"(
def kernel(tensor_list: List[Tensor]) -> Tuple[List[Tensor], Tensor]:
    x = tensor_list[0]
    bucket_dim = 1
    x_shape = x.shape
    tensor_sequence_length = x_shape[bucket_dim]
    batch_size = x_shape[bucket_dim - 1]
    buckets = [128, 512]
    idx = 0
    num_inputs = 3
    bucket = buckets[0]
    reshaped_tensors: List[Tensor] = []
    bucket_idx = 0
    for idx, bucket in enumerate(buckets):
        if tensor_sequence_length <= bucket:
            bucket_idx = idx
            for tensor in tensor_list:
                if num_inputs == 0:
                    break
                delta = bucket - tensor_sequence_length
                padding_shape: List[int] = [batch_size, delta]
                zeros = torch.zeros(padding_shape, dtype=x.dtype)
                reshaped_tensors.append(torch.cat([tensor, zeros], dim=bucket_dim))
                num_inputs -= 1
            break
    return reshaped_tensors, torch.tensor([bucket_idx])
)";

TEST_F(KernelRecorderTest, the_guides_kernel_is_planned_as_padding_that_clients_can_lay_out) {
  const PlannedKernel kernel(kGuidesKernel);
  for (const std::int64_t length : {1, 122, 128, 129, 444, 512}) {
    const Signature signature(3, {DType::kInt64, Shape{1, length}});
    Plan plan;
    const Status status = kernel.plan(signature, plan);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(plan.bucket, length <= 128 ? 0u : 1u);
    EXPECT_TRUE(plan.is_padding);
    for (const PlanInput& input : plan.inputs) {
      EXPECT_EQ(input.padded, (Shape{1, length <= 128 ? 128 : 512}));
      EXPECT_EQ(input.fill_bits, 0u);
      EXPECT_EQ(input.pad_before[1], 0);
    }
    EXPECT_EQ(kernel.difference(signature, plan, 4), "");
  }
  Plan plan;
  EXPECT_EQ(kernel.plan(Signature(3, {DType::kInt64, Shape{1, 513}}), plan).code(),
            StatusCode::kOutOfRange);
}

TEST_F(KernelRecorderTest, the_guides_kernel_turns_a_mask_into_floats_where_ids_are_floats) {
  const PlannedKernel kernel(kGuidesKernel);
  const Signature signature{{DType::kFloat32, Shape{1, 122}},
                            {DType::kInt64, Shape{1, 122}},
                            {DType::kFloat16, Shape{1, 122}}};
  Plan plan;
  const Status status = kernel.plan(signature, plan);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_FALSE(plan.is_padding);
  EXPECT_EQ(plan.inputs[1].dtype, DType::kFloat32);
  EXPECT_EQ(kernel.difference(signature, plan, 16), "");
}

TEST_F(KernelRecorderTest, a_kernel_that_pads_by_the_masks_sum_is_never_planned) {
  const std::string by_sum = R"(
def kernel(inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:
    length = int(inputs[1].sum())
    padded: List[Tensor] = []
    for x in inputs:
        padded.append(torch.constant_pad_nd(x[:, :length], [0, 128 - length], 0))
    return padded, torch.tensor([0])
)";
  for (const DType dtype : {DType::kInt64, DType::kBool, DType::kFloat16}) {
    expect_unplanned(by_sum, "aten::sum: it reads numbers of an input",
                     Signature(2, {dtype, Shape{1, 100}}));
  }
  expect_unplanned(returning("x[:, :int(x[0, 0])]"), "aten::Int");
  expect_unplanned(returning("x.nonzero()"), "aten::nonzero");
  expect_unplanned(kernel_of("    if bool(x[0, 0]):\n        x = x.t()\n"
                             "    return [x], torch.tensor([0])\n"),
                   "aten::Bool");
}

TEST_F(KernelRecorderTest, what_has_few_values_is_not_mistaken_for_padding) {
  // All values of a bool, and a pad value that numbers equal.
  expect_planned(returning("torch.constant_pad_nd(x, [2, 1], 1)"), {{DType::kBool, Shape{2, 3}}},
                 true);
  expect_planned(returning("torch.constant_pad_nd(x, [2, 1], 1)"), {{DType::kFloat16, Shape{2, 3}}},
                 true);
  expect_planned(returning("torch.cat([x, x, torch.ones_like(x)], 1)"),
                 {{DType::kBool, Shape{2, 3}}});
  expect_planned(returning("torch.full_like(x, 3)"), {{DType::kFloat16, Shape{2, 3}}});
}

TEST_F(KernelRecorderTest, padding_on_any_side_is_what_clients_can_lay_out) {
  expect_planned(returning("torch.constant_pad_nd(x, [1, 2, 3, 4], -1.5)"), kFloatMatrix, true);
  expect_planned(returning("torch.cat([torch.zeros([2, 5]), x], 1)"), kFloatMatrix, true);
  expect_planned(kernel_of("    y = torch.full([4, 8], 2.0)\n    y[1:3, 2:5] = x\n"
                           "    return [y], torch.tensor([0])\n"),
                 kFloatMatrix, true);
  // Of an input that is empty only the padding remains.
  expect_planned(returning("torch.constant_pad_nd(x, [0, 4], 1)"), {{DType::kFloat32, Shape{2, 0}}},
                 true);
  // Two fill values are too many, and so is half of the input.
  expect_planned(returning("torch.cat([torch.zeros([2, 5]), x, torch.ones([2, 5])], 1)"));
  expect_planned(returning("torch.constant_pad_nd(x[:, :2], [0, 4], 1)"));
}

TEST_F(KernelRecorderTest, a_kernel_may_return_its_inputs_in_any_order_and_twice) {
  expect_planned(returning("x"), kFloatMatrix, true);
  expect_planned(returning("inputs[1], x"), Signature(2, {DType::kInt32, Shape{4}}));
  expect_planned(returning("x, x, x.t()"));
  expect_planned(
      kernel_of("    y = torch.zeros([2, 4])\n    v = y[:, 1:]\n    v.copy_(x)\n"
                "    y[0, 1] = 5\n    return [y, v, y[0]], torch.tensor([0])\n"));
}

TEST_F(KernelRecorderTest, a_later_write_wins) {
  expect_planned(
      kernel_of("    y = torch.cat([x, x], 0)\n    y[1:3, 1] = 7\n    z = y.clone()\n"
                "    y[0] = torch.tensor([1.0, 2.0, 3.0])\n    y[0, 0:2] = x[1, 1:]\n"
                "    return [y, z], torch.tensor([0])\n"));
}

TEST_F(KernelRecorderTest, a_write_into_an_input_or_a_constant_of_the_graph_is_refused) {
  expect_unplanned(kernel_of("    x[0] = 1\n    return [x], torch.tensor([0])\n"),
                   "aten::copy_: it writes into an input");
  expect_unplanned(kernel_of("    x.zero_()\n    return [x], torch.tensor([0])\n"),
                   "aten::zero_: it writes into an input");
  expect_unplanned(kernel_of("    x.add_(1)\n    return [x], torch.tensor([0])\n"), "aten::add_");
}

TEST_F(KernelRecorderTest, what_nobody_wrote_is_refused_only_if_it_is_given) {
  expect_unplanned(returning("torch.empty([2, 3])"), "aten::empty");
  expect_unplanned(kernel_of("    y = torch.empty([4, 3])\n    y[:3] = torch.cat([x, x[0:1]], 0)\n"
                             "    return [y], torch.tensor([0])\n"),
                   "aten::empty");
  expect_planned(kernel_of("    y = torch.empty([2, 4])\n    y[:, :3] = x\n    y[:, 3:] = 1\n"
                           "    return [y], torch.tensor([0])\n"),
                 kFloatMatrix, true);
}

TEST_F(KernelRecorderTest, known_numbers_may_be_read) {
  expect_planned(
      kernel_of("    i = int(torch.tensor([1, 2])[1])\n"
                "    return [x[:, :i]], torch.tensor(0)\n"));
  expect_planned(
      kernel_of("    at = torch.arange(0, 3, 2)\n"
                "    return [x.index_select(1, at)], torch.tensor([0])\n"));
}

TEST_F(KernelRecorderTest, conversions_that_are_not_exact_are_refused) {
  expect_planned(returning("x.to(dtype=7)"));
  expect_planned(returning("x.to(dtype=11)"));
  expect_unplanned(returning("x.to(dtype=4)"), "aten::to: it converts float32");
  expect_unplanned(returning("x.to(dtype=5)"), "aten::to: it converts float32");
  // By way of a type that does not hold them all.
  expect_planned(returning("x.to(dtype=1).to(dtype=6)"), {{DType::kInt64, Shape{50}}});
  expect_planned(returning("x.to(dtype=11).to(dtype=4)"), {{DType::kFloat32, Shape{50}}});
}

TEST_F(KernelRecorderTest, exact_conversions_are_what_libtorch_does) {
  // In the order of DType.
  constexpr int kScalarTypes[] = {11, 0, 1, 2, 3, 4, 5, 15, 6, 7};
  for (int to = 1; to <= 10; ++to) {
    const PlannedKernel kernel(
        returning("x.to(dtype=" + std::to_string(kScalarTypes[to - 1]) + ")"));
    for (int from = 1; from <= 10; ++from) {
      const Signature signature{{static_cast<DType>(from), Shape{2500}}};
      const bool has_rule = has_exact_conversion(static_cast<DType>(from), static_cast<DType>(to));
      Plan plan;
      ASSERT_EQ(kernel.plan(signature, plan).ok(), has_rule) << from << " to " << to;
      if (has_rule) {
        EXPECT_EQ(kernel.difference(signature, plan, 3), "") << from << " to " << to;
      }
    }
  }
}

TEST_F(KernelRecorderTest, an_index_out_of_an_input_is_refused_and_a_wrong_result_is_no_plan) {
  expect_unplanned(kernel_of("    return [x], inputs[1]\n"), "index",
                   {{DType::kFloat32, Shape{2}}, {DType::kInt64, Shape{1}}});
  Plan plan;
  EXPECT_EQ(PlannedKernel(kernel_of("    return [x], torch.tensor([0.5])\n"))
                .plan(kFloatMatrix, plan)
                .code(),
            StatusCode::kInternal);
}

TEST_F(KernelRecorderTest, a_kernel_that_raises_or_fails_is_no_plan) {
  Plan plan;
  for (const char* body :
       {"    if x.dim() == 2:\n        assert False, 'no'\n    return [x], torch.tensor([0])\n",
        "    assert x.size(0) == 3\n    return [x], torch.tensor([0])\n",
        "    return [x.view([5])], torch.tensor([0])\n",
        "    return [inputs[7]], torch.tensor([0])\n"}) {
    const PlannedKernel kernel(kernel_of(body));
    EXPECT_EQ(kernel.plan(kFloatMatrix, plan).code(), StatusCode::kInvalidArgument) << body;
  }
}

TEST_F(KernelRecorderTest, loops_run_as_long_as_they_do_and_not_for_ever) {
  expect_planned(
      kernel_of("    rows: List[Tensor] = []\n    i = 0\n"
                "    while i < x.size(0) * 3:\n"
                "        if i % 2 == 0:\n            i += 1\n            continue\n"
                "        rows.append(x[i % x.size(0)])\n        i += 1\n"
                "        if len(rows) == 4:\n            break\n"
                "    return [torch.stack(rows, 1)], torch.tensor([0])\n"));
  expect_unplanned(kernel_of("    i = 0\n    while i < 1000000000:\n        i += 1\n"
                             "    return [x], torch.tensor([0])\n"),
                   "steps");
}

TEST_F(KernelRecorderTest, a_plan_that_is_too_large_to_be_kept_is_none) {
  expect_unplanned(returning("torch.cat([x.flatten(), torch.arange(0.0, 20000.0)])"),
                   "bytes of constants");
  expect_planned(returning("torch.cat([x.flatten(), torch.arange(0.0, 200.0)])"));
  expect_unplanned(returning("torch.stack([x[i % 2, i % 3] for i in range(300)])"),
                   "moves and 0 bytes of constants, more than a plan may keep");
}

TEST_F(KernelRecorderTest, operators_that_are_not_known_are_named) {
  expect_unplanned(returning("torch.relu(x)"), "aten::relu: plans know no such operator");
  expect_unplanned(returning("torch.rand([2, 3])"), "aten::rand");
  expect_unplanned(returning("x + 1"), "aten::add: it reads numbers of an input");
  expect_unplanned(kernel_of("    print(x.size())\n    return [x], torch.tensor([0])\n"),
                   "prim::Print");
}

TEST_F(KernelRecorderTest, views_that_run_diagonally_go_through_temporaries) {
  expect_planned(returning("torch.cat([x, x], 1).flatten()[1:8:3]"));
  expect_planned(returning("torch.cat([x, x], 1).t().reshape([4, 3])"));
  expect_planned(
      kernel_of("    y = torch.zeros([3, 3])\n    y[0:2] = x\n"
                "    return [y.diagonal(0, 0, 1)], torch.tensor([0])\n"));
  expect_planned(returning("torch.cat([x, x], 1).unfold(1, 3, 2)"));
}

TEST_F(KernelRecorderTest, scalars_and_empty_tensors_have_plans) {
  expect_planned(returning("x"), {{DType::kBfloat16, Shape{}}}, true);
  expect_planned(returning("x.unsqueeze(0).expand([3])"), {{DType::kInt16, Shape{}}});
  expect_planned(returning("torch.cat([x, torch.ones([0])], 0)"), {{DType::kFloat32, Shape{4, 2}}},
                 true);
  expect_planned(returning("x"), {{DType::kInt16, Shape{0, 3}}}, true);
}

}  // namespace
}  // namespace bucketd::torchscript
