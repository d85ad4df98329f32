#include "bucketd/tensor_span.h"

namespace bucketd {
namespace {

// Calls visit(strided, contiguous_offset, bytes) for the longest runs that are contiguous in
// `tensor`, in row-major order.
template <typename Visit>
void for_each_run(const RawTensorSpan& tensor, Visit visit) {
  const std::size_t element_bytes = dtype_size_bytes(tensor.dtype);
  const std::uint64_t count = tensor.shape.element_count().value_or(0);
  if (count == 0) return;
  // The trailing dimensions that lie together make up one run.
  std::size_t outer = tensor.shape.rank();
  std::int64_t run_bytes = static_cast<std::int64_t>(element_bytes);
  while (outer > 0 &&
         (tensor.shape[outer - 1] == 1 || tensor.byte_strides[outer - 1] == run_bytes)) {
    --outer;
    run_bytes *= tensor.shape[outer];
  }
  std::array<std::int64_t, kMaxRank> at{};
  std::size_t contiguous = 0;
  while (true) {
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < outer; ++d) offset += at[d] * tensor.byte_strides[d];
    visit(tensor.data + offset, contiguous, static_cast<std::size_t>(run_bytes));
    contiguous += static_cast<std::size_t>(run_bytes);
    std::size_t d = outer;
    while (d > 0 && ++at[d - 1] == tensor.shape[d - 1]) at[--d] = 0;
    if (d == 0) return;
  }
}

}  // namespace

void RawTensorSpan::copy_from(std::span<const std::byte> source) const {
  assert(source.size() >= shape.byte_size(dtype).value_or(0));
  for_each_run(*this, [&](std::byte* run, std::size_t offset, std::size_t bytes) {
    std::memcpy(run, source.data() + offset, bytes);
  });
}

void RawTensorSpan::copy_to(std::span<std::byte> destination) const {
  assert(destination.size() >= shape.byte_size(dtype).value_or(0));
  for_each_run(*this, [&](const std::byte* run, std::size_t offset, std::size_t bytes) {
    std::memcpy(destination.data() + offset, run, bytes);
  });
}

}  // namespace bucketd
