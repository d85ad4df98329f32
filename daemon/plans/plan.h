// Plan: what a model's kernel does for one input signature.
//
// Thread safety: values.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "daemon/plans/moves.h"

namespace bucketd {

// How one bucket input is laid out. `source` is the caller's input that fills it.
struct PlanInput {
  std::uint16_t source = 0;
  DType dtype = DType::kFloat32;
  Shape padded;                                     // the bucket's shape
  std::array<std::int64_t, kMaxRank> pad_before{};  // elements of padding before the caller's data
  std::uint64_t fill_bits = 0;
  std::uint64_t padded_bytes = 0;
  std::uint64_t offset = 0;  // in private memory, a multiple of kTensorAlignment
};

// Most that one plan keeps: about 100 KiB of moves, and what the kernel's own tensors hold. Plans
// are many: one for each signature of each lane.
inline constexpr std::size_t kMaxPlanMoves = 256;
inline constexpr std::size_t kMaxPlanConstantBytes = 64 << 10;

struct Plan {
  std::uint32_t id = 0;  // 0: not kept
  // Bucket input i is the caller's input i, of the same dtype, whole, with padding around: clients
  // can lay it out themselves. Else `moves` makes the bucket's inputs, and of `inputs` only dtype,
  // shape, bytes and offset count.
  bool is_padding = true;
  std::uint32_t bucket = 0;
  std::vector<TensorSignature> signature;  // of the caller's inputs
  std::vector<PlanInput> inputs;           // of the bucket
  std::uint64_t private_bytes = 0;         // for all inputs, and for temporaries of `moves`
  MoveList moves;                          // empty if is_padding
};

// The plan of a kernel that chose `bucket` for `inputs` and did `recorded`, whose outputs are the
// bucket's inputs, of their dtypes and shapes. Data go straight from inputs to outputs where
// forward_moves() can tell how, else through the kernel's temporaries.
// Errors: UNIMPLEMENTED when an output holds memory that nothing wrote, or a plan would be too
// large to be kept; INTERNAL when sizes overflow.
Status make_plan(const ModelDescription& model, std::size_t bucket,
                 std::span<const TensorSignature> inputs, MoveList recorded, Plan& plan);

// Lays the caller's inputs out by `plan` in `memory` (plan.private_bytes bytes, at a multiple of
// kTensorAlignment): bucket input i at plan.inputs[i].offset. `inputs[i]`: the caller's input i,
// contiguous. No allocation.
void lay_out(const Plan& plan, std::span<const std::byte* const> inputs, std::byte* memory);

// The plan of a declarative kernel (model.kernel == kPad): the first bucket that takes the inputs.
// `inputs` passed check_inputs(). `plan` is overwritten, its memory reused.
// Errors: OUT_OF_RANGE when no bucket is large enough in every dimension; INVALID_ARGUMENT when
// rank, dtype or a dimension that is not padded fits no bucket; INTERNAL when the artifact's fill
// value does not fit its dtype.
Status make_plan(const ModelDescription& model, std::span<const TensorSignature> inputs,
                 Plan& plan);

}  // namespace bucketd
