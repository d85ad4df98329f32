// Random kernels against LibTorch's interpreter: whatever has a plan, has the right one, and what
// only moves data has one.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "daemon/backends/torchscript/testing/planned_kernel.h"

namespace bucketd::torchscript {
namespace {

using testing::PlannedKernel;
using Signature = std::vector<TensorSignature>;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

constexpr std::uint64_t kSeed = 20260;
constexpr int kSignaturesOfAKernel = 4;

// LibTorch's numbers of dtypes, as TorchScript text has them.
const std::map<DType, int> kScalarTypes = {
    {DType::kUint8, 0}, {DType::kInt8, 1},     {DType::kInt16, 2},   {DType::kInt32, 3},
    {DType::kInt64, 4}, {DType::kFloat16, 5},  {DType::kFloat32, 6}, {DType::kFloat64, 7},
    {DType::kBool, 11}, {DType::kBfloat16, 15}};

// A kernel that works for inputs of any signature with which LibTorch's operators do: sizes are
// taken from tensors, never assumed.
class KernelText {
 public:
  explicit KernelText(std::mt19937_64& random) : random_(random) {
    text_ = "def kernel(inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:\n";
    for (int i = 0; i < 3; ++i)
      line("v" + std::to_string(i) + " = inputs[" + std::to_string(i) + "]");
    count_ = 3;
    const int steps = pick(1, 7);
    for (int i = 0; i < steps; ++i) add_step();
    if (chance(8)) read_a_value();
    const int results = pick(1, 3);
    std::string list;
    for (int i = 0; i < results; ++i) list += (i > 0 ? ", " : "") + (chance(2) ? last() : any());
    line("return [" + list + "], torch.tensor([" + std::to_string(pick(0, 2)) + "])");
  }

  const std::string& text() const { return text_; }
  // Numbers of inputs are looked at, computed with, or converted to other ones.
  bool only_moves() const { return only_moves_; }

 private:
  int pick(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<std::uint64_t>(most - least + 1));
  }
  bool chance(int one_of) { return pick(1, one_of) == 1; }
  std::string number(int least, int most) { return std::to_string(pick(least, most)); }
  std::string any() { return "v" + std::to_string(pick(0, count_ - 1)); }
  std::string last() { return "v" + std::to_string(count_ - 1); }
  std::string old() { return chance(2) ? last() : any(); }
  std::string dtype() {
    auto entry = kScalarTypes.begin();
    std::advance(entry, pick(0, static_cast<int>(kScalarTypes.size()) - 1));
    return std::to_string(entry->second);
  }
  // A number that every dtype holds.
  std::string value() { return chance(3) ? "0" : "1"; }

  void line(const std::string& text) { text_ += "    " + text + "\n"; }
  void make(const std::string& expression) {
    line("v" + std::to_string(count_++) + " = " + expression);
  }
  // A tensor with a dimension; which one of them, and its size.
  void make_sized(const std::string& from) {
    line("s = " + from + " if " + from + ".dim() > 0 else " + from + ".unsqueeze(0)");
    line("d = " + number(0, 3) + " % s.dim()");
    line("n = s.size(d)");
  }
  // What is large is cut, so that no kernel becomes slow.
  void cut() {
    const std::string tensor = last();
    line("if " + tensor + ".numel() > 3000:");
    line("    " + tensor + " = " + tensor + ".flatten()[" + number(0, 5) + ":" + number(20, 90) +
         "]");
  }

  void add_step() {
    const std::string from = old();
    switch (pick(0, 25)) {
      case 0:
        make_sized(from);
        line("sizes = list(s.size())");
        line("sizes[d] = " + number(0, 4));
        line("z = torch.full(sizes, " + value() + ", dtype=" + dtype() + ")");
        convert_to_any_of(from);
        make(chance(2) ? "torch.cat([s, z], d)" : "torch.cat([z, s, z], d)");
        break;
      case 1:
        make("torch.stack([" + from + ", " + from + "], " + (chance(2) ? "0" : "-1") + ")");
        break;
      case 2:
        make_sized(from);
        make("torch.constant_pad_nd(s, [" + number(0, 3) + ", " + number(0, 3) +
             (chance(2) ? "] + [0, " + number(0, 2) + "] * (s.dim() - 1)" : "]") + ", " + value() +
             ")");
        break;
      case 3:
        make_sized(from);
        make("torch.constant_pad_nd(s, [-min(s.size(-1), " + number(0, 2) + "), " + number(0, 2) +
             "], " + value() + ")");
        break;
      case 4:
        make_sized(from);
        make("torch.slice(s, d, " + number(-4, 3) + ", " + number(-2, 9) + ", " + number(1, 3) +
             ")");
        break;
      case 5:
        make_sized(from);
        make("s.narrow(d, n // " + number(2, 4) + ", n // 2)");
        break;
      case 6:
        make_sized(from);
        line("w = s");
        line("if n > 0:");
        line("    w = s.select(d, " + number(0, 3) + " % n)");
        make("w");
        break;
      case 7:
        make(from + (chance(2) ? ".unsqueeze(0)" : ".unsqueeze(-1)"));
        break;
      case 8:
        make(from + ".squeeze()");
        break;
      case 9:
        make_sized(from);
        make("s.transpose(d, " + std::string(chance(2) ? "0" : "-1") + ")");
        break;
      case 10:
        make_sized(from);
        make("s.permute([s.dim() - 1 - i for i in range(s.dim())])");
        break;
      case 11:
        make(from + (chance(2) ? ".reshape([-1])" : ".flatten()"));
        break;
      case 12:
        line("w = " + from);
        line("if w.numel() % 2 == 0 and w.numel() > 0:");
        line(std::string("    w = w.reshape([") + (chance(2) ? "2, -1" : "-1, 2") + "])");
        make("w");
        break;
      case 13:
        make(from + ".unsqueeze(0).expand([" + number(1, 3) + "] + " + from + ".size())");
        cut();
        break;
      case 14:
        make_sized(from);
        make("s.repeat([" + number(0, 2) + "] + [1] * (s.dim() - 1) + [" + number(1, 2) + "])");
        cut();
        break;
      case 15:
        make(from + (chance(2) ? ".contiguous()" : ".clone()"));
        break;
      case 16:
        convert(from);
        break;
      case 17:  // in place, on memory of its own
        make_sized(from);
        line("y = torch.zeros([" + number(1, 3) + "] + s.size(), dtype=" + dtype() + ")");
        convert_to_any_of(from);
        line("y.select(0, 0).copy_(s)");
        line("y.select(1 + d, 0)" + std::string(chance(2) ? ".fill_(1)" : ".zero_()") +
             " if n > 0 else y");
        make("y");
        cut();
        break;
      case 18:
        make_sized(from);
        line("y = s.clone()");
        line("y.narrow(d, n // 2, n - n // 2).fill_(" + value() + ")");
        line("y[0:1] = y[-1:]" + std::string(".clone()"));
        make("y");
        break;
      case 19:
        make_sized(from);
        line("w = s");
        line("if n > 0:");
        line("    w = s.index_select(d, torch.arange(0, n, " + number(1, 3) + "))");
        make("w");
        break;
      case 20:
        make_sized(from);
        make("torch.chunk(s, " + number(1, 3) + ", d)[0]");
        break;
      case 21: {  // types are promoted
        const std::string other = any();
        make("torch.cat([" + from + ".reshape([-1]), " + other + ".reshape([-1])])");
        promotes(from, other);
        cut();
        break;
      }
      case 22:  // control flow on sizes
        make_sized(from);
        line("w = s");
        line("if n > " + number(0, 4) + ":");
        line("    w = s.flatten()");
        line("elif s.dim() == 2:");
        line("    w = s.t()");
        make("w");
        break;
      case 23:
        make_sized(from);
        line("rows" + std::to_string(count_) + ": List[Tensor] = []");
        line("for i in range(n):");
        line("    if i % 2 == " + number(0, 1) + ":");
        line("        rows" + std::to_string(count_) + ".append(s.select(d, n - 1 - i))");
        line("w = s");
        line("if len(rows" + std::to_string(count_) + ") > 0:");
        line("    w = torch.stack(rows" + std::to_string(count_) + ")");
        make("w");
        break;
      case 24:
        make_sized(from);
        line("y = s.new_full(s.size(), " + value() + ")");
        line("torch.slice(y, d, " + number(0, 2) + ", 100, " + number(1, 2) +
             ").copy_(torch.slice(s, d, " + number(0, 2) +
             ", 100, 1).narrow(d, 0, 0) if n < 5 else torch.slice(s, d, 0, 1, 1))");
        make("y");
        break;
      default:
        make_sized(from);
        line("y = torch.empty(s.size() + [2], dtype=" + std::string("s.dtype)"));
        line("y.select(-1, " + number(0, 1) + ").copy_(s)");
        line("y.fill_(" + value() + ") if n == 3 else y");
        line("y.select(-1, 0).copy_(s)");
        line("y.select(-1, 1).copy_(s)");
        make("y.transpose(-1, d)");
        cut();
    }
  }

  // Whether converting loses nothing is known only when dtypes are: kernels that may are not
  // counted among those that only move data.
  void convert(const std::string& from) {
    make(from + ".to(dtype=" + dtype() + ")");
    only_moves_ = false;
  }
  void convert_to_any_of(const std::string&) { only_moves_ = false; }
  void promotes(const std::string&, const std::string&) { only_moves_ = false; }

  void read_a_value() {
    only_moves_ = false;
    const std::string from = any();
    switch (pick(0, 4)) {
      case 0:
        line("if bool((" + from + " == 1).any()):");
        line("    " + last() + " = " + last() + ".flatten()");
        break;
      case 1:
        line("m = int((" + from + " != 0).sum())");
        make(last() + ".flatten()[:m]");
        break;
      case 2:
        make(from + ".nonzero()");
        break;
      case 3:
        make(from + ".flatten()[:2] + 1");
        break;
      default:
        make("torch.where(" + from + " == 0, torch.zeros_like(" + from + "), " + from + ")");
    }
  }

  std::mt19937_64& random_;
  std::string text_;
  int count_ = 0;
  bool only_moves_ = true;
};

Signature random_signature(std::mt19937_64& random, bool one_dtype) {
  Signature signature;
  const auto dtype = [&random] { return static_cast<DType>(1 + random() % 10); };
  const DType common = dtype();
  for (int i = 0; i < 3; ++i) {
    std::array<std::int64_t, 4> sizes{};
    const std::size_t rank = random() % 4;
    for (std::size_t d = 0; d < rank; ++d) sizes[d] = static_cast<std::int64_t>(random() % 7);
    signature.push_back({one_dtype ? common : dtype(), *Shape::from({sizes.data(), rank})});
  }
  return signature;
}

std::string text_of(const Signature& signature) {
  std::string text;
  for (const TensorSignature& each : signature) {
    text += std::string(dtype_name(each.dtype)) + " " + each.shape.to_string() + ", ";
  }
  return text;
}

TEST(KernelPlansRandom, every_plan_is_what_the_interpreter_does) {
  testing::configure_like_the_backend();
  const int kernels = kIsSanitized ? 150 : 2500;
  std::mt19937_64 random(kSeed);
  int cases = 0, planned = 0, padding = 0, moving = 0, moving_planned = 0, through_temporaries = 0;
  std::map<std::string, int> reasons;
  for (int k = 0; k < kernels; ++k) {
    const KernelText text(random);
    SCOPED_TRACE(text.text());
    const PlannedKernel kernel(text.text());
    for (int s = 0; s < kSignaturesOfAKernel; ++s, ++cases) {
      const Signature signature = random_signature(random, s % 2 == 0);
      SCOPED_TRACE(text_of(signature));
      Plan plan;
      const Status status = kernel.plan(signature, plan);
      const bool runs = status.ok() || kernel.runs(signature, 1);
      if (runs && text.only_moves()) ++moving;
      if (!status.ok()) {
        // Up to the first shape.
        if (runs) ++reasons[status.message().substr(0, status.message().find(" ["))];
        continue;
      }
      ++planned;
      if (text.only_moves()) ++moving_planned;
      if (plan.is_padding) ++padding;
      for (const MoveBuffer& buffer : plan.moves.buffers) {
        if (buffer.kind == BufferKind::kTemporary && buffer.offset != 0) {
          ++through_temporaries;
          break;
        }
      }
      ASSERT_EQ(kernel.difference(signature, plan, 2), "") << "seed " << kSeed << ", kernel " << k;
    }
  }
  std::printf(
      "seed %llu: %d cases, %d planned (%d as padding, %d through temporaries); of %d cases that "
      "only move data %d\n",
      static_cast<unsigned long long>(kSeed), cases, planned, padding, through_temporaries, moving,
      moving_planned);
  for (const auto& [reason, count] : reasons) std::printf("%6d %s\n", count, reason.c_str());
  EXPECT_GT(planned, cases / 4);
  EXPECT_GT(moving, cases / 10);
  // 90% is what is promised; fewer than these would be a mistake in following data.
  EXPECT_GE(moving_planned * 100, moving * 98) << "kernels that only move data have plans";
}

}  // namespace
}  // namespace bucketd::torchscript
