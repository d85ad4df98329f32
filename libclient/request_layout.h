// Where the inputs of a request lie in its slot: as the caller has them (raw) or as their bucket
// wants them (padded by a plan).
//
// Thread safety: functions of their arguments only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/tensor_span.h"

namespace bucketd::internal {

// How one input is padded. The plan's input `i` is filled by the caller's input `i`, of the same
// dtype: plans that permute or convert are not used for laying out.
struct PlanInput {
  Shape padded;
  std::array<std::int64_t, kMaxRank> pad_before{};
  std::uint64_t fill_bits = 0;  // one element, in the low bytes
};

struct Plan {
  std::uint32_t id = 0;
  std::uint32_t bucket = 0;
  std::vector<PlanInput> inputs;
  // Names this very plan in this process, across lanes and whatever a worker does with ids.
  std::uint64_t key = 0;
};

struct InputPlacement {
  TensorSignature signature;  // the caller's
  std::uint64_t offset = 0;   // of the laid-out tensor, from the slot's start
  std::uint64_t byte_size = 0;
  std::uint64_t data_offset = 0;  // of the caller's first element, from the slot's start
  std::array<std::int64_t, kMaxRank> byte_strides{};
};

// Fills `placements` (resized to inputs.size()) and returns the bytes used, descriptors included;
// nothing if a size overflows.
std::optional<std::uint64_t> place_raw(std::span<const TensorSignature> inputs,
                                       std::vector<InputPlacement>& placements);
// The same for a plan made for exactly these inputs.
std::optional<std::uint64_t> place_padded(std::span<const TensorSignature> inputs, const Plan& plan,
                                          std::vector<InputPlacement>& placements);

// The view of an input that was placed in `slot`.
RawTensorSpan placed_view(const InputPlacement& placement, std::byte* slot);

// Writes `input`'s fill value to every element around the caller's part.
void fill_padding(const InputPlacement& placement, const PlanInput& input, std::byte* slot);

// Strides in bytes of a contiguous tensor.
std::array<std::int64_t, kMaxRank> contiguous_byte_strides(const Shape& shape, DType dtype);

}  // namespace bucketd::internal
