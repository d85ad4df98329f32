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

struct Plan {
  std::uint32_t id = 0;  // 0: not kept
  std::uint32_t bucket = 0;
  std::vector<TensorSignature> signature;  // of the caller's inputs
  std::vector<PlanInput> inputs;           // of the bucket
  std::uint64_t private_bytes = 0;         // for all inputs
};

// The plan of a declarative kernel (model.kernel == kPad): the first bucket that takes the inputs.
// `inputs` passed check_inputs(). `plan` is overwritten, its memory reused.
// Errors: OUT_OF_RANGE when no bucket is large enough in every dimension; INVALID_ARGUMENT when
// rank, dtype or a dimension that is not padded fits no bucket; INTERNAL when the artifact's fill
// value does not fit its dtype.
Status make_plan(const ModelDescription& model, std::span<const TensorSignature> inputs,
                 Plan& plan);

}  // namespace bucketd
