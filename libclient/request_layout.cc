#include "libclient/request_layout.h"

#include <algorithm>

#include "common/channel_layout.h"

namespace bucketd::internal {
namespace {

// Places tensor `placement`, of `byte_size` bytes, behind `used` and moves `used` behind it.
bool append(InputPlacement& placement, std::uint64_t byte_size, std::uint64_t& used) {
  const std::optional<std::uint64_t> offset = align_up(used, kTensorAlignment);
  if (!offset || __builtin_add_overflow(*offset, byte_size, &used)) return false;
  placement.offset = *offset;
  placement.byte_size = byte_size;
  placement.data_offset = *offset;
  return true;
}

// Fills the parts of a contiguous tensor of shape `padded` that lie outside of the box of shape
// `box` at `before`. T has the element's size.
template <typename T>
class BoxSurroundings {
 public:
  BoxSurroundings(const Shape& padded, const Shape& box,
                  const std::array<std::int64_t, kMaxRank>& before, T value)
      : padded_(padded), box_(box), before_(before), value_(value) {
    std::int64_t elements = 1;
    for (std::size_t d = padded.rank(); d-- > 0;) {
      elements_of_row_[d] = elements;
      elements *= padded[d];
    }
  }

  void fill(T* data, std::size_t dim = 0) const {
    if (dim == padded_.rank()) return;
    const std::int64_t row = elements_of_row_[dim];
    const std::int64_t before = before_[dim];
    const std::int64_t inside = box_[dim];
    std::fill_n(data, before * row, value_);
    if (dim + 1 < padded_.rank()) {
      for (std::int64_t i = before; i < before + inside; ++i) fill(data + i * row, dim + 1);
    }
    std::fill_n(data + (before + inside) * row, (padded_[dim] - before - inside) * row, value_);
  }

 private:
  const Shape& padded_;
  const Shape& box_;
  const std::array<std::int64_t, kMaxRank>& before_;
  const T value_;
  std::array<std::int64_t, kMaxRank> elements_of_row_{};
};

template <typename T>
void fill_around(const InputPlacement& placement, const PlanInput& input, std::byte* slot) {
  BoxSurroundings<T>(input.padded, placement.signature.shape, input.pad_before,
                     static_cast<T>(input.fill_bits))
      .fill(reinterpret_cast<T*>(slot + placement.offset));
}

}  // namespace

std::array<std::int64_t, kMaxRank> contiguous_byte_strides(const Shape& shape, DType dtype) {
  std::array<std::int64_t, kMaxRank> strides{};
  std::int64_t bytes = static_cast<std::int64_t>(dtype_size_bytes(dtype));
  for (std::size_t d = shape.rank(); d-- > 0;) {
    strides[d] = bytes;
    // A tensor with a size of 0 has no elements: its strides only must not overflow.
    bytes *= std::max<std::int64_t>(shape[d], 1);
  }
  return strides;
}

std::optional<std::uint64_t> place_raw(std::span<const TensorSignature> inputs,
                                       std::vector<InputPlacement>& placements) {
  placements.resize(inputs.size());
  std::uint64_t used = input_payload_offset(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    InputPlacement& placement = placements[i];
    placement.signature = inputs[i];
    const std::optional<std::uint64_t> bytes = inputs[i].shape.byte_size(inputs[i].dtype);
    if (!bytes || !append(placement, *bytes, used)) return std::nullopt;
    // Of an empty tensor the other sizes may be anything; no element is ever addressed.
    placement.byte_strides = *bytes == 0
                                 ? std::array<std::int64_t, kMaxRank>{}
                                 : contiguous_byte_strides(inputs[i].shape, inputs[i].dtype);
  }
  return used;
}

std::optional<std::uint64_t> place_padded(std::span<const TensorSignature> inputs, const Plan& plan,
                                          std::vector<InputPlacement>& placements) {
  placements.resize(inputs.size());
  std::uint64_t used = input_payload_offset(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    InputPlacement& placement = placements[i];
    const PlanInput& input = plan.inputs[i];
    placement.signature = inputs[i];
    const std::optional<std::uint64_t> bytes = input.padded.byte_size(inputs[i].dtype);
    if (!bytes || !append(placement, *bytes, used)) return std::nullopt;
    placement.byte_strides = contiguous_byte_strides(input.padded, inputs[i].dtype);
    for (std::size_t d = 0; d < input.padded.rank(); ++d) {
      placement.data_offset +=
          static_cast<std::uint64_t>(input.pad_before[d] * placement.byte_strides[d]);
    }
  }
  return used;
}

RawTensorSpan placed_view(const InputPlacement& placement, std::byte* slot) {
  return {placement.signature.dtype, placement.signature.shape, slot + placement.data_offset,
          placement.byte_strides};
}

void fill_padding(const InputPlacement& placement, const PlanInput& input, std::byte* slot) {
  switch (dtype_size_bytes(placement.signature.dtype)) {
    case 1:
      return fill_around<std::uint8_t>(placement, input, slot);
    case 2:
      return fill_around<std::uint16_t>(placement, input, slot);
    case 4:
      return fill_around<std::uint32_t>(placement, input, slot);
    default:
      return fill_around<std::uint64_t>(placement, input, slot);
  }
}

}  // namespace bucketd::internal
