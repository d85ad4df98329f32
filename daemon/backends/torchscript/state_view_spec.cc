#include "daemon/backends/torchscript/state_view_spec.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace bucketd::torchscript {
namespace {

// The dimensions along which `view` has less than the state; nothing if it is not laid out along
// the state's dimensions.
std::optional<std::vector<std::size_t>> sliced_dimensions(const at::Tensor& view,
                                                          const StateSpec& state) {
  const std::size_t rank = state.shape.rank();
  if (static_cast<std::size_t>(view.dim()) != rank) return std::nullopt;
  std::vector<std::size_t> sliced;
  std::int64_t stride = 1;
  for (std::size_t d = rank; d-- > 0;) {
    const std::int64_t size = view.size(static_cast<std::int64_t>(d));
    const bool steps_along = size <= 1 || view.stride(static_cast<std::int64_t>(d)) == stride;
    if (!steps_along) return std::nullopt;
    if (size != state.shape[d]) sliced.insert(sliced.begin(), d);
    stride *= state.shape[d];
  }
  return sliced;
}

std::string part_text(const at::Tensor& view, const StateSpec& state) {
  const auto sliced = sliced_dimensions(view, state);
  if (!sliced) return "a rearranged view";
  if (sliced->empty()) return "the whole state";
  std::string text = sliced->size() == 1 ? "a slice of dimension " : "a slice of dimensions ";
  for (std::size_t i = 0; i < sliced->size(); ++i) {
    if (i > 0) text += i + 1 == sliced->size() ? " and " : ", ";
    text += std::to_string((*sliced)[i]);
  }
  return text;
}

// "rows of 512 bytes are 2048 bytes apart": the innermost gap.
std::string gap_text(const at::Tensor& view) {
  std::int64_t run = 1;
  for (std::int64_t d = view.dim(); d-- > 0;) {
    if (view.size(d) == 1) continue;
    if (view.stride(d) == run) {
      run *= view.size(d);
      continue;
    }
    const auto bytes = [&view](std::int64_t elements) {
      return std::to_string(static_cast<std::uint64_t>(elements) * view.itemsize()) + " bytes";
    };
    return (run == 1 ? "elements" : "rows") + (" of " + bytes(run)) + " are " +
           bytes(view.stride(d)) + " apart";
  }
  return "in one piece";
}

}  // namespace

StateViewSpec describe_view(const at::Tensor& view, const StateSpec& state) {
  const std::string part = part_text(view, state);
  if (view.is_contiguous()) {
    return {StateViewKind::kContiguous, part == "the whole state" ? part : part + ", in one piece"};
  }
  return {StateViewKind::kStrided, part + ", " + gap_text(view)};
}

}  // namespace bucketd::torchscript
