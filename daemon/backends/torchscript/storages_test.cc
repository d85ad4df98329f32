#include "daemon/backends/torchscript/storages.h"

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <gtest/gtest.h>

#include "daemon/backends/torchscript/graph_analysis.h"

namespace bucketd::torchscript {
namespace {

bool share_storage(const at::Tensor& a, const at::Tensor& b) {
  return a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl();
}

TEST(ShareEqualStorages, equal_bytes_become_one_storage_and_views_stay_what_they_are) {
  const at::Tensor first = at::arange(12, at::kFloat);
  const at::Tensor second = at::arange(12, at::kFloat).view({3, 4});
  const at::Tensor column = second.t()[1];
  const at::Tensor other = at::arange(1, 13, at::kFloat);
  const at::Tensor shorter = at::arange(11, at::kFloat);
  share_equal_storages({first, second, column, other, shorter}, {});
  EXPECT_TRUE(share_storage(first, second));
  EXPECT_TRUE(share_storage(first, column));
  EXPECT_TRUE(at::equal(column, at::tensor({1.0f, 5.0f, 9.0f})));
  EXPECT_FALSE(share_storage(first, other));
  EXPECT_FALSE(share_storage(first, shorter));
  EXPECT_EQ(*distinct_storage_bytes({first, second, column}), 48u);
}

TEST(ShareEqualStorages, what_is_written_is_left_alone_from_either_side) {
  const at::Tensor first = at::zeros({4});
  const at::Tensor second = at::zeros({4});
  const at::Tensor third = at::zeros({4});
  share_equal_storages({first, second, third}, {first.narrow(0, 1, 2)});
  EXPECT_FALSE(share_storage(first, second));
  EXPECT_TRUE(share_storage(second, third));
  share_equal_storages({second, first}, {first});
  EXPECT_FALSE(share_storage(first, second));
}

TEST(ShareEqualStorages, takes_tensors_without_memory) {
  const at::Tensor empty = at::empty({0, 3});
  share_equal_storages({empty, at::Tensor(), at::empty({0})}, {at::Tensor()});
  EXPECT_EQ(empty.numel(), 0);
}

TEST(WrittenKeptTensors, are_attributes_that_a_method_writes_into_however_it_views_them) {
  torch::jit::Module inner("inner");
  inner.register_buffer("count", at::zeros({2, 2}));
  inner.register_buffer("weight", at::ones({2, 2}));
  torch::jit::Module module("module");
  module.register_module("inner", inner);
  module.register_buffer("other", at::ones({2}));
  module.define(R"(
def forward(self, x):
    count = self.inner.count.t()
    count[0].add_(1)
    x.add_(1)
    sum = x + self.inner.weight
    sum[0] = 0
    return sum + self.other
)");
  const auto forward = module.get_method("forward");
  const auto written = written_kept_tensors(forward.function(), module._ivalue());
  ASSERT_TRUE(written.has_value());
  ASSERT_EQ(written->size(), 1u);
  EXPECT_TRUE(share_storage(written->front(), inner.attr("count").toTensor()));
}

TEST(WrittenKeptTensors, are_unknown_where_a_branch_decides_what_is_written) {
  torch::jit::Module module("module");
  module.register_buffer("count", at::zeros({2}));
  module.define(R"(
def forward(self, x):
    y = x
    if x.size(0) > 1:
        y = self.count
    y.add_(1)
    return y
)");
  EXPECT_FALSE(
      written_kept_tensors(module.get_method("forward").function(), module._ivalue()).has_value());
}

TEST(WrittenKeptTensors, are_unknown_where_a_method_takes_a_tensor_out_of_a_list) {
  torch::jit::Module module("module");
  module.register_attribute("counts", c10::ListType::ofTensors(),
                            c10::List<at::Tensor>({at::zeros({2})}));
  module.define(R"(
def forward(self, x):
    self.counts[0].add_(1)
    return x
)");
  EXPECT_FALSE(
      written_kept_tensors(module.get_method("forward").function(), module._ivalue()).has_value());
}

}  // namespace
}  // namespace bucketd::torchscript
