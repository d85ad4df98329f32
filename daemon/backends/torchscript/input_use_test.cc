// Which operators allow that their operands are read where the client wrote them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/backends/torchscript/testing/compiled_bucket.h"

namespace bucketd::torchscript {
namespace {

// TorchScript text knows dtypes by number: 6 is float32.
using testing::reasons;
using Reasons = std::vector<std::string>;

TEST(InputUse, operands_of_arithmetic_are_read_in_place) {
  EXPECT_EQ(reasons("x, w", "return torch.relu(torch.matmul(x, w) + 1)"), (Reasons{"", ""}));
  EXPECT_EQ(reasons("x", "return torch.softmax(x.to(6), -1).mean()"), Reasons{""});
}

TEST(InputUse, views_are_followed_to_what_takes_them) {
  EXPECT_EQ(reasons("x", "return x.view(-1)[0].unsqueeze(0) * 2"), Reasons{""});
  EXPECT_EQ(reasons("x", "return torch.sort(x.transpose(0, 1)[1:])[0]"),
            Reasons{"aten::sort takes it"});
  EXPECT_EQ(reasons("x", "return torch.nonzero(x.to(6))"), Reasons{"aten::nonzero takes it"});
}

TEST(InputUse, what_reads_twice_or_by_value_gets_a_copy) {
  EXPECT_EQ(reasons("x, table", "return torch.embedding(table, x)"),
            (Reasons{"aten::embedding takes it", "aten::embedding takes it"}));
  EXPECT_EQ(reasons("x", "return torch.topk(x, 2)[0]"), Reasons{"aten::topk takes it"});
  EXPECT_EQ(reasons("x", "if bool(x[0] > 0):\n  x = torch.sort(x)[0]\nreturn x").size(), 1u);
  EXPECT_NE(reasons("x", "if bool(x[0] > 0):\n  x = torch.sort(x)[0]\nreturn x"), Reasons{""});
  EXPECT_NE(reasons("x", "return torch.ones([int(x[0])])"), Reasons{""});
}

TEST(InputUse, what_is_written_in_place_gets_a_copy) {
  EXPECT_EQ(reasons("x", "x += 1\nreturn x * 2"), Reasons{"the bucket may write into it"});
  EXPECT_EQ(reasons("x", "y = x[0]\ny.zero_()\nreturn x * 2"),
            Reasons{"the bucket may write into it"});
}

TEST(InputUse, lists_and_tuples_pass_it_on) {
  EXPECT_EQ(reasons("x, y", "return torch.cat([x[:1], y], 0)"), (Reasons{"", ""}));
  EXPECT_EQ(reasons("x, y", "return (x, y * 2)"), (Reasons{"", ""}));
  EXPECT_NE(reasons("x, y", "l = [x, y]\nl.reverse()\nreturn torch.sort(l[0])[0] + y"),
            (Reasons{"", ""}));
}

TEST(InputUse, an_argument_that_nobody_takes_is_fine) {
  EXPECT_EQ(reasons("x, y", "return x + 1"), (Reasons{"", ""}));
}

// "aten::index_select": the elements of the second argument are indices, those of the first are
// not; neither is on the list.
TEST(InputUse, operators_that_are_not_on_the_list_get_a_copy) {
  EXPECT_NE(reasons("x, i", "return torch.index_select(x, 0, i)"), (Reasons{"", ""}));
}

}  // namespace
}  // namespace bucketd::torchscript
