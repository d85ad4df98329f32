#include "daemon/backends/torchscript/tensor_tape.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "daemon/backends/torchscript/tensors.h"
#include "daemon/plans/element_conversion.h"

namespace bucketd::torchscript {
namespace {

Status unplanned(const std::string& why) { return Status(StatusCode::kUnimplemented, why); }

// Sizes of the tensor's storage, row by row: those of the tensor, outermost first, if it fills its
// storage, else one row of all elements.
std::vector<std::int64_t> dims_of_storage(const at::Tensor& tensor) {
  const auto elements =
      static_cast<std::int64_t>(tensor.storage().nbytes() / tensor.element_size());
  std::vector<std::int64_t> order(static_cast<std::size_t>(tensor.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return tensor.stride(a) > tensor.stride(b);
  });
  std::vector<std::int64_t> dims;
  for (const std::int64_t d : order) dims.push_back(tensor.size(d));
  std::int64_t stride = 1;
  bool fills = tensor.storage_offset() == 0 && tensor.numel() == elements;
  for (std::size_t i = order.size(); i-- > 0 && fills;) {
    if (tensor.size(order[i]) != 1) fills = tensor.stride(order[i]) == stride;
    stride *= tensor.size(order[i]);
  }
  if (fills) return dims;
  return {elements};
}

// Whether writing `tensor` writes all of its storage.
bool fills_storage(const at::Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel()) *
             static_cast<std::size_t>(tensor.element_size()) ==
         tensor.storage().nbytes();
}

// Two ends of one move that lie in one buffer and may touch each other.
bool may_overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto end = [](const at::Tensor& tensor) {
    std::int64_t last = tensor.storage_offset();
    for (std::int64_t d = 0; d < tensor.dim(); ++d) {
      last += (tensor.size(d) - 1) * tensor.stride(d);
    }
    return last + 1;
  };
  return a.storage_offset() < end(b) && b.storage_offset() < end(a);
}

}  // namespace

TensorTape::Memory* TensorTape::find(const at::Tensor& tensor) {
  const auto found = memories_.find(tensor.storage().unsafeGetStorageImpl());
  return found == memories_.end() ? nullptr : &found->second;
}

const TensorTape::Memory* TensorTape::find(const at::Tensor& tensor) const {
  return const_cast<TensorTape*>(this)->find(tensor);
}

bool TensorTape::knows(const at::Tensor& tensor) const { return find(tensor) != nullptr; }

bool TensorTape::is_constant(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory != nullptr && !memory->has_inputs && !memory->has_unwritten;
}

Result<TensorTape::Memory*> TensorTape::find_writable(const at::Tensor& tensor) {
  Memory* memory = find(tensor);
  if (memory == nullptr) return error(unplanned("it writes memory that is not the kernel's"));
  if (memory->read_only != nullptr) {
    return error(unplanned(std::string("it writes into ") + memory->read_only));
  }
  return memory;
}

bool TensorTape::outlives_run(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory != nullptr && memory->outlives_run;
}

Result<TensorTape::Memory*> TensorTape::add(const at::Tensor& tensor) {
  const std::optional<DType> dtype = dtype_of(tensor.scalar_type());
  if (!dtype) return error(unplanned("it makes a tensor " + signature_text(tensor)));
  list_.buffers.push_back({BufferKind::kTemporary, *dtype, 0, dims_of_storage(tensor), 0});
  Memory memory;
  memory.buffer = static_cast<std::uint32_t>(list_.buffers.size() - 1);
  memory.keep_alive = tensor.storage();
  return &memories_.insert_or_assign(tensor.storage().unsafeGetStorageImpl(), std::move(memory))
              .first->second;
}

Status TensorTape::add_input(std::uint32_t index, const at::Tensor& tensor) {
  const Result<Memory*> memory = add(tensor);
  if (!memory) return memory.error();
  (*memory)->read_only = "an input";
  (*memory)->has_inputs = true;
  list_.buffers.back().kind = BufferKind::kInput;
  list_.buffers.back().index = index;
  return Status();
}

Status TensorTape::add_unwritten(const at::Tensor& tensor) {
  const Result<Memory*> memory = add(tensor);
  if (!memory) return memory.error();
  (*memory)->has_unwritten = tensor.storage().nbytes() > 0;
  return Status();
}

Status TensorTape::add_constant(const at::Tensor& tensor) {
  if (Status status = add_unwritten(tensor); !status.ok()) return status;
  return write_constant(tensor);
}

Status TensorTape::add_kept_constant(const at::Tensor& tensor) {
  if (Status status = add_constant(tensor); !status.ok()) return status;
  find(tensor)->read_only = "a constant of its graph";
  find(tensor)->outlives_run = true;
  return Status();
}

Status TensorTape::write_constant(const at::Tensor& to) {
  const Result<Memory*> memory = find_writable(to);
  if (!memory) return memory.error();
  if (fills_storage(to)) (*memory)->has_unwritten = false;
  if (to.numel() == 0) return Status();
  const std::uint32_t buffer = (*memory)->buffer;
  at::Tensor numbers = to.contiguous();
  if (numbers.storage_offset() != 0) numbers = numbers.clone();
  const auto* bytes = static_cast<const std::byte*>(numbers.data_ptr());
  const std::size_t element_bytes = numbers.element_size();
  const std::size_t count = static_cast<std::size_t>(numbers.numel()) * element_bytes;
  // All alike: every element equals the one before.
  if (std::memcmp(bytes, bytes + element_bytes, count - element_bytes) == 0) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, bytes, element_bytes);
    return move_fill(buffer, to, bits);
  }
  const std::uint32_t constant =
      list_.add_constant(list_.buffers[buffer].dtype, {numbers.numel()}, {bytes, count});
  return move(buffer, to, constant, numbers);
}

Status TensorTape::fill(const at::Tensor& to, std::uint64_t bits) {
  const Result<Memory*> memory = find_writable(to);
  if (!memory) return memory.error();
  if (fills_storage(to)) (*memory)->has_unwritten = false;
  return move_fill((*memory)->buffer, to, bits);
}

Status TensorTape::copy(const at::Tensor& to, const at::Tensor& from) {
  // Its numbers are there already, converted.
  if (is_constant(from)) return write_constant(to);
  const Result<Memory*> writable = find_writable(to);
  if (!writable) return writable.error();
  Memory* target = *writable;
  const Memory* source = find(from);
  if (source == nullptr) return unplanned("it copies memory that is not the kernel's");
  if (to.numel() == 0) return Status();
  if (target == source && may_overlap(to, from)) {
    return unplanned("it copies a tensor onto itself");
  }
  const std::optional<DType> to_dtype = dtype_of(to.scalar_type());
  const std::optional<DType> from_dtype = dtype_of(from.scalar_type());
  if (!to_dtype || !from_dtype || !has_exact_conversion(*from_dtype, *to_dtype)) {
    return unplanned("it converts " + signature_text(from) + " to " + signature_text(to) +
                     ", which is not exact for all numbers");
  }
  target->has_inputs = target->has_inputs || source->has_inputs;
  if (fills_storage(to)) {
    target->has_unwritten = source->has_unwritten;
  } else {
    target->has_unwritten = target->has_unwritten || source->has_unwritten;
  }
  return move(target->buffer, to, source->buffer, from.expand_as(to));
}

Status TensorTape::move(std::uint32_t to_buffer, const at::Tensor& to, std::uint32_t from_buffer,
                        const at::Tensor& from) {
  if (to.numel() == 0) return Status();
  Move move;
  move.to = to_buffer;
  move.from = from_buffer;
  move.to_offset = to.storage_offset();
  move.from_offset = from.storage_offset();
  for (std::int64_t d = 0; d < to.dim(); ++d) {
    if (to.size(d) == 1) continue;
    if (move.rank == kMaxMoveRank) return unplanned("it makes tensors of too many dimensions");
    move.dims[move.rank++] = {to.size(d), to.stride(d), from.stride(d)};
  }
  list_.moves.push_back(move);
  return Status();
}

Status TensorTape::move_fill(std::uint32_t to_buffer, const at::Tensor& to, std::uint64_t bits) {
  if (to.numel() == 0) return Status();
  if (Status status = move(to_buffer, to, kNoBuffer, to); !status.ok()) return status;
  Move& fill = list_.moves.back();
  fill.fill_bits = bits;
  fill.from_offset = 0;
  for (MoveDim& dim : fill.used_dims()) dim.from_stride = 0;
  return Status();
}

Status TensorTape::add_output(std::uint32_t index, const at::Tensor& result) {
  const Memory* source = find(result);
  if (source == nullptr) return unplanned("its result is not the kernel's own memory");
  list_.buffers.push_back(
      {BufferKind::kOutput, list_.buffers[source->buffer].dtype, index, result.sizes().vec(), 0});
  return move(
      static_cast<std::uint32_t>(list_.buffers.size() - 1),
      at::empty(result.sizes(), result.options().memory_format(at::MemoryFormat::Contiguous)),
      source->buffer, result);
}

}  // namespace bucketd::torchscript
