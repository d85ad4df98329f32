#include "daemon/plans/forwarding.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "daemon/plans/element_conversion.h"
#include "daemon/plans/plan.h"

namespace bucketd {
namespace {

// A list of int32 buffers: `inputs`, then temporaries, then outputs.
struct Buffers {
  explicit Buffers(std::vector<std::vector<std::int64_t>> inputs,
                   std::vector<std::vector<std::int64_t>> temporaries,
                   std::vector<std::vector<std::int64_t>> outputs) {
    std::uint32_t index = 0;
    for (auto& dims : inputs) add(BufferKind::kInput, index++, dims);
    for (auto& dims : temporaries) add(BufferKind::kTemporary, 0, dims);
    index = 0;
    for (auto& dims : outputs) add(BufferKind::kOutput, index++, dims);
  }
  void add(BufferKind kind, std::uint32_t index, const std::vector<std::int64_t>& dims) {
    list.buffers.push_back({kind, DType::kInt32, index, dims, bytes});
    if (kind != BufferKind::kInput) bytes += static_cast<std::uint64_t>(element_count(dims)) * 4;
  }

  void copy(std::uint32_t to, std::int64_t to_offset, std::uint32_t from, std::int64_t from_offset,
            const std::vector<MoveDim>& dims) {
    Move move;
    move.to = to;
    move.from = from;
    move.to_offset = to_offset;
    move.from_offset = from_offset;
    for (const MoveDim& dim : dims) move.dims[move.rank++] = dim;
    list.moves.push_back(move);
  }
  void fill(std::uint32_t to, std::int64_t to_offset, std::uint64_t bits,
            const std::vector<MoveDim>& dims) {
    copy(to, to_offset, kNoBuffer, 0, dims);
    list.moves.back().fill_bits = bits;
    for (MoveDim& dim : list.moves.back().used_dims()) dim.from_stride = 0;
  }

  MoveList list;
  std::uint64_t bytes = 0;
};

TEST(ForwardMoves, a_later_write_wins_and_what_is_behind_it_stays) {
  Buffers buffers({{6}}, {{2, 4}}, {{2, 4}});
  buffers.fill(1, 0, 7, {{8, 1, 0}});
  buffers.copy(1, 1, 0, 0, {{2, 4, 3}, {3, 1, 1}});
  buffers.copy(2, 0, 1, 0, {{8, 1, 1}});
  const auto outputs = forward_moves(buffers.list, 1);
  ASSERT_TRUE(outputs.has_value());
  const std::span<const Region> boxes = (*outputs)[0].list();
  ASSERT_EQ(boxes.size(), 2u) << "a column of sevens, and the input";
  for (const Region& box : boxes) {
    const bool is_copy = box.content.kind == Content::Kind::kCopy;
    EXPECT_EQ(box.start[1], is_copy ? 1 : 0);
    EXPECT_EQ(box.size[1], is_copy ? 3 : 1);
    EXPECT_EQ(box.size[0], 2);
    EXPECT_EQ(box.content.fill_bits, is_copy ? 0u : 7u);
  }
}

TEST(ForwardMoves, what_was_copied_is_as_it_was_then) {
  Buffers buffers({{4}}, {{4}}, {{4}});
  buffers.copy(1, 0, 0, 0, {{4, 1, 1}});
  buffers.copy(2, 0, 1, 0, {{4, 1, 1}});
  buffers.fill(1, 0, 9, {{4, 1, 0}});
  const auto outputs = forward_moves(buffers.list, 1);
  ASSERT_TRUE(outputs.has_value());
  ASSERT_EQ((*outputs)[0].list().size(), 1u);
  EXPECT_EQ((*outputs)[0].list()[0].content.kind, Content::Kind::kCopy);
}

TEST(ForwardMoves, does_not_follow_a_diagonal) {
  Buffers buffers({{9}}, {{3, 3}}, {{3}});
  buffers.copy(1, 0, 0, 0, {{9, 1, 1}});
  buffers.copy(2, 0, 1, 0, {{3, 1, 4}});
  EXPECT_FALSE(forward_moves(buffers.list, 1).has_value());
  EXPECT_EQ(find_unwritten_output(buffers.list), std::nullopt);
}

TEST(ForwardMoves, finds_what_nobody_wrote) {
  Buffers buffers({{4}}, {{6}}, {{6}});
  buffers.copy(1, 1, 0, 0, {{4, 1, 1}});
  buffers.copy(2, 0, 1, 0, {{6, 1, 1}});
  EXPECT_EQ(find_unwritten_output(buffers.list), 0u);
  const auto outputs = forward_moves(buffers.list, 1);
  ASSERT_TRUE(outputs.has_value());
  std::int64_t unwritten = 0;
  for (const Region& box : (*outputs)[0].list()) {
    if (box.content.kind == Content::Kind::kUnwritten) unwritten += box.size[0];
  }
  EXPECT_EQ(unwritten, 2);
}

TEST(ForwardMoves, drops_what_no_output_needs) {
  Buffers buffers({{4}}, {{4}, {4}}, {{4}});
  buffers.copy(1, 0, 0, 0, {{4, 1, 1}});
  buffers.copy(2, 0, 1, 0, {{4, 1, 1}});
  buffers.copy(3, 0, 1, 0, {{4, 1, 1}});
  buffers.fill(1, 0, 9, {{4, 1, 0}});
  drop_dead_moves(buffers.list);
  ASSERT_EQ(buffers.list.moves.size(), 2u);
  EXPECT_EQ(buffers.list.moves[1].to, 3u);
}

// A view of a contiguous buffer: a part of each dim, with steps, in any order.
struct View {
  std::int64_t offset = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};

View random_view(std::mt19937_64& random, const std::vector<std::int64_t>& dims, bool with_steps) {
  View view;
  std::int64_t stride = element_count(dims);
  for (const std::int64_t size : dims) {
    stride /= size;
    const auto start = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(size));
    const std::int64_t step = with_steps && random() % 4 == 0 ? 2 : 1;
    const std::int64_t most = (size - start + step - 1) / step;
    const bool is_whole = random() % 2 == 0;
    view.offset += is_whole ? 0 : start * stride;
    view.sizes.push_back(
        is_whole ? size
                 : 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most)));
    view.strides.push_back(is_whole ? stride : step * stride);
  }
  if (dims.size() > 1 && random() % 3 == 0) {
    std::swap(view.sizes[0], view.sizes[1]);
    std::swap(view.strides[0], view.strides[1]);
  }
  return view;
}

TEST(ForwardMoves, random_lists_give_what_they_give_move_by_move) {
  std::mt19937_64 random(7);
  int direct = 0;
  for (int round = 0; round < 4000; ++round) {
    const auto dims = [&random] {
      return std::vector<std::int64_t>{1 + static_cast<std::int64_t>(random() % 6),
                                       1 + static_cast<std::int64_t>(random() % 6)};
    };
    const auto first = dims();
    const std::vector<std::int64_t> folded{element_count(first)};
    Buffers buffers({dims(), dims()}, {first, dims(), folded}, {first, folded});
    for (std::uint32_t b = 2; b < 7; ++b) {
      buffers.fill(b, 0, b, {{element_count(buffers.list.buffers[b].dims), 1, 0}});
    }
    for (int m = 0; m < 6; ++m) {
      const auto to = static_cast<std::uint32_t>(2 + random() % 5);
      const auto from = static_cast<std::uint32_t>(random() % 5);
      if (to == from) continue;
      const View target = random_view(random, buffers.list.buffers[to].dims, true);
      const View source = random_view(random, buffers.list.buffers[from].dims, true);
      std::vector<MoveDim> move;
      for (std::size_t d = 0; d < target.sizes.size(); ++d) {
        const bool has_source = d < source.sizes.size();
        const std::int64_t size =
            has_source ? std::min(target.sizes[d], source.sizes[d]) : target.sizes[d];
        move.push_back({size, target.strides[d], has_source ? source.strides[d] : 0});
      }
      if (random() % 5 == 0) {
        buffers.fill(to, target.offset, 100 + random() % 9, move);
      } else {
        buffers.copy(to, target.offset, from, source.offset, move);
      }
    }
    // The same elements in another shape.
    buffers.copy(6, 0, 2, 0, {{folded[0], 1, 1}});
    std::vector<std::int32_t> given[2];
    std::vector<const std::byte*> inputs;
    std::vector<TensorSignature> signature;
    for (std::uint32_t i = 0; i < 2; ++i) {
      given[i].resize(static_cast<std::size_t>(element_count(buffers.list.buffers[i].dims)));
      std::iota(given[i].begin(), given[i].end(), 1000 * static_cast<std::int32_t>(i + 1));
      inputs.push_back(reinterpret_cast<const std::byte*>(given[i].data()));
      signature.push_back({DType::kInt32, *Shape::from(buffers.list.buffers[i].dims)});
    }
    std::vector<std::int32_t> expected(buffers.bytes / 4, -1);
    run_moves(buffers.list, inputs, reinterpret_cast<std::byte*>(expected.data()));

    ModelDescription model;
    model.inputs = {{"a", DType::kInt32}, {"b", DType::kInt32}};
    model.buckets.resize(1);
    model.buckets[0].inputs = {*Shape::from(first), *Shape::from(folded)};
    if (forward_moves(buffers.list, 2)) ++direct;
    Plan plan;
    ASSERT_TRUE(make_plan(model, 0, signature, buffers.list, plan).ok());
    std::vector<std::int32_t> laid_out(plan.private_bytes / 4, -1);
    lay_out(plan, inputs, reinterpret_cast<std::byte*>(laid_out.data()));
    for (std::size_t o = 0; o < 2; ++o) {
      const MoveBuffer& buffer = buffers.list.buffers[5 + o];
      ASSERT_EQ(std::memcmp(laid_out.data() + plan.inputs[o].offset / 4,
                            expected.data() + buffer.offset / 4, plan.inputs[o].padded_bytes),
                0)
          << "round " << round << ", output " << o;
    }
  }
  EXPECT_GT(direct, 2000);
}

TEST(ElementConversion, keeps_every_number_that_the_wider_type_holds) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    EXPECT_EQ(convert_bits(DType::kFloat32, DType::kBfloat16, bits), bits << 16);
    EXPECT_EQ(convert_bits(DType::kInt64, DType::kInt16, bits),
              static_cast<std::uint64_t>(static_cast<std::int16_t>(bits)));
  }
  EXPECT_EQ(convert_bits(DType::kFloat32, DType::kFloat16, 0x3C01), 0x3F802000u);
  EXPECT_EQ(convert_bits(DType::kFloat32, DType::kFloat16, 0x8001), 0xB3800000u);
  EXPECT_EQ(convert_bits(DType::kFloat32, DType::kFloat16, 0xFC00), 0xFF800000u);
  EXPECT_EQ(convert_bits(DType::kFloat32, DType::kFloat16, 0x7D01), 0x7FE02000u);
}

TEST(ElementConversion, rounds_integers_to_the_nearest_even) {
  EXPECT_EQ(convert_bits(DType::kFloat16, DType::kInt32, 2049), 0x6800u);
  EXPECT_EQ(convert_bits(DType::kFloat16, DType::kInt32, 2051), 0x6802u);
  EXPECT_EQ(convert_bits(DType::kFloat16, DType::kInt32, 65519), 0x7BFFu);
  EXPECT_EQ(convert_bits(DType::kFloat16, DType::kInt32, 65520), 0x7C00u);
  EXPECT_EQ(convert_bits(DType::kBfloat16, DType::kInt32, 257), 0x4380u);
  EXPECT_EQ(convert_bits(DType::kInt8, DType::kInt64, 0x1FF), 0xFFu);
  EXPECT_EQ(convert_bits(DType::kBool, DType::kInt64, 256), 1u);
}

TEST(ElementConversion, has_no_rule_where_machines_differ) {
  EXPECT_FALSE(has_exact_conversion(DType::kFloat32, DType::kInt64));
  EXPECT_FALSE(has_exact_conversion(DType::kFloat32, DType::kFloat16));
  EXPECT_FALSE(has_exact_conversion(DType::kFloat16, DType::kBfloat16));
  EXPECT_FALSE(passes_unchanged(DType::kInt64, DType::kFloat64));
  EXPECT_FALSE(passes_unchanged(DType::kUint8, DType::kInt8));
  EXPECT_TRUE(passes_unchanged(DType::kUint8, DType::kInt16));
}

}  // namespace
}  // namespace bucketd
