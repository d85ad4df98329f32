#include "daemon/plans/moves.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "daemon/plans/element_conversion.h"
#include "daemon/plans/padding.h"

namespace bucketd {
namespace {

// Bytes that a constant begins at a multiple of: the largest element.
constexpr std::size_t kConstantAlignment = 8;

template <typename T>
void fill_row(std::byte* to, std::int64_t stride, std::int64_t count, std::uint64_t bits) {
  auto* elements = reinterpret_cast<T*>(to);
  for (std::int64_t i = 0; i < count; ++i) elements[i * stride] = static_cast<T>(bits);
}

void fill_row(std::size_t element_bytes, std::byte* to, std::int64_t stride, std::int64_t count,
              std::uint64_t bits) {
  if (stride == 1) {
    return fill_elements(to, static_cast<std::uint64_t>(count) * element_bytes, element_bytes,
                         bits);
  }
  switch (element_bytes) {
    case 1:
      return fill_row<std::uint8_t>(to, stride, count, bits);
    case 2:
      return fill_row<std::uint16_t>(to, stride, count, bits);
    case 4:
      return fill_row<std::uint32_t>(to, stride, count, bits);
    default:
      return fill_row<std::uint64_t>(to, stride, count, bits);
  }
}

// One move between known addresses. Rows are the last dimension.
struct Mover {
  const Move& move;
  DType to_dtype;
  DType from_dtype;
  std::int64_t to_bytes;    // of one element
  std::int64_t from_bytes;  // of one element

  void row(std::byte* to, const std::byte* from, const MoveDim& dim) const {
    if (from == nullptr) {
      fill_row(static_cast<std::size_t>(to_bytes), to, dim.to_stride, dim.size, move.fill_bits);
    } else if (dim.to_stride == 1 && dim.from_stride == 1 && to_dtype == from_dtype) {
      copy_elements(to_dtype, to, from, static_cast<std::uint64_t>(dim.size * to_bytes));
    } else {
      convert_row(to_dtype, to, dim.to_stride, from_dtype, from, dim.from_stride, dim.size);
    }
  }

  void run(std::byte* to, const std::byte* from, std::uint32_t depth) const {
    if (depth + 1 >= move.rank) {
      return row(to, from, move.rank == 0 ? MoveDim{1, 1, 1} : move.dims[depth]);
    }
    const MoveDim& dim = move.dims[depth];
    for (std::int64_t i = 0; i < dim.size; ++i) {
      run(to + i * dim.to_stride * to_bytes,
          from == nullptr ? nullptr : from + i * dim.from_stride * from_bytes, depth + 1);
    }
  }
};

const std::byte* address_of(const MoveList& list, const MoveBuffer& buffer,
                            std::span<const std::byte* const> inputs, const std::byte* memory) {
  switch (buffer.kind) {
    case BufferKind::kInput:
      return inputs[buffer.index];
    case BufferKind::kConstant:
      return list.constants.data() + buffer.offset;
    case BufferKind::kTemporary:
    case BufferKind::kOutput:
      break;
  }
  return memory + buffer.offset;
}

bool is_one_run(const MoveDim& outer, const MoveDim& inner) {
  return outer.to_stride == inner.size * inner.to_stride &&
         outer.from_stride == inner.size * inner.from_stride;
}

}  // namespace

std::uint32_t MoveList::add_constant(DType dtype, std::vector<std::int64_t> dims,
                                     std::span<const std::byte> bytes) {
  constants.resize((constants.size() + kConstantAlignment - 1) / kConstantAlignment *
                   kConstantAlignment);
  buffers.push_back({BufferKind::kConstant, dtype, 0, std::move(dims), constants.size()});
  constants.insert(constants.end(), bytes.begin(), bytes.end());
  return static_cast<std::uint32_t>(buffers.size() - 1);
}

std::int64_t element_count(std::span<const std::int64_t> dims) {
  std::int64_t count = 1;
  for (const std::int64_t size : dims) count *= size;
  return count;
}

void simplify(Move& move) {
  const auto end = std::remove_if(move.dims.begin(), move.dims.begin() + move.rank,
                                  [](const MoveDim& dim) { return dim.size == 1; });
  move.rank = static_cast<std::uint32_t>(end - move.dims.begin());
  std::stable_sort(move.dims.begin(), end,
                   [](const MoveDim& a, const MoveDim& b) { return a.to_stride > b.to_stride; });
  std::uint32_t kept = 0;
  for (std::uint32_t d = 0; d < move.rank; ++d) {
    MoveDim& last = move.dims[kept > 0 ? kept - 1 : 0];
    if (kept > 0 && is_one_run(last, move.dims[d])) {
      last = {last.size * move.dims[d].size, move.dims[d].to_stride, move.dims[d].from_stride};
    } else {
      move.dims[kept++] = move.dims[d];
    }
  }
  move.rank = kept;
}

void run_moves(const MoveList& list, std::span<const std::byte* const> inputs, std::byte* memory) {
  for (const Move& move : list.moves) {
    const MoveBuffer& to = list.buffers[move.to];
    assert(to.kind == BufferKind::kTemporary || to.kind == BufferKind::kOutput);
    const auto to_bytes = static_cast<std::int64_t>(dtype_size_bytes(to.dtype));
    Mover mover{move, to.dtype, to.dtype, to_bytes, to_bytes};
    const std::byte* source = nullptr;
    if (!move.is_fill()) {
      const MoveBuffer& from = list.buffers[move.from];
      mover.from_dtype = from.dtype;
      mover.from_bytes = static_cast<std::int64_t>(dtype_size_bytes(from.dtype));
      source = address_of(list, from, inputs, memory) + move.from_offset * mover.from_bytes;
    }
    mover.run(memory + to.offset + static_cast<std::uint64_t>(move.to_offset * to_bytes), source,
              0);
  }
}

}  // namespace bucketd
