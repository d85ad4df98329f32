// Moves: data on its way from a kernel's inputs to the inputs of a bucket, as strided copies and
// fills between buffers, in order. What an interpreted kernel leaves behind (recorded, with its
// temporaries), and what is executed (with as few as possible).
//
// Thread safety: values; run_moves() reads its list only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "bucketd/dtype.h"

namespace bucketd {

enum class BufferKind : std::uint8_t {
  kInput,      // the caller's input `index`, contiguous
  kConstant,   // bytes of MoveList::constants
  kTemporary,  // memory that the kernel made
  kOutput,     // input `index` of the bucket, contiguous
};

// Contiguous memory of elements of one dtype.
struct MoveBuffer {
  BufferKind kind = BufferKind::kTemporary;
  DType dtype = DType::kFloat32;
  std::uint32_t index = 0;
  std::vector<std::int64_t> dims;  // how its elements are best told apart: sizes, row by row
  // Bytes from the start of the constants, or of the private memory (kTemporary, kOutput).
  std::uint64_t offset = 0;
};

inline constexpr std::size_t kMaxMoveRank = 16;
inline constexpr std::uint32_t kNoBuffer = std::numeric_limits<std::uint32_t>::max();

// One dimension of a move: how many elements, how far apart in either buffer, in elements.
struct MoveDim {
  std::int64_t size = 0;
  std::int64_t to_stride = 0;
  std::int64_t from_stride = 0;
};

// A copy (converting if the dtypes differ), or a fill where there is no `from`. Offsets in
// elements.
struct Move {
  std::uint32_t to = 0;
  std::uint32_t from = kNoBuffer;
  std::int64_t to_offset = 0;
  std::int64_t from_offset = 0;
  std::uint64_t fill_bits = 0;  // of the dtype of `to`, in the low bytes
  std::uint32_t rank = 0;
  std::array<MoveDim, kMaxMoveRank> dims{};  // outermost first; no order of elements is promised

  std::span<MoveDim> used_dims() { return {dims.data(), rank}; }
  std::span<const MoveDim> used_dims() const { return {dims.data(), rank}; }
  bool is_fill() const { return from == kNoBuffer; }
};

struct MoveList {
  std::vector<MoveBuffer> buffers;
  std::vector<Move> moves;
  std::vector<std::byte> constants;

  // Adds a buffer of constants with these bytes; each begins at a multiple of 8.
  std::uint32_t add_constant(DType dtype, std::vector<std::int64_t> dims,
                             std::span<const std::byte> bytes);
};

std::int64_t element_count(std::span<const std::int64_t> dims);

// Drops dimensions of one element, orders the rest by their distance in `to` and joins those that
// are one run in both buffers: so that the last one is as long as can be.
void simplify(Move& move);

// Executes the list. `inputs[i]`: the caller's input i, contiguous; `memory`: private memory that
// holds temporaries and outputs at their offsets. Inputs may change meanwhile (a client may write
// there): whatever is read then is an element all the same. No allocation.
void run_moves(const MoveList& list, std::span<const std::byte* const> inputs, std::byte* memory);

}  // namespace bucketd
