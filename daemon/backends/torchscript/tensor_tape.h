// TensorTape: what a kernel does to tensors, as moves between buffers, recorded while it runs on
// real tensors.
//
// A tensor is known by its storage: sizes, strides and offset are the tensor's own, so that views
// need no record. Every storage is an input's (read only), or memory that the kernel made, of which
// it is known whether anything of an input is in it.
//
// Thread safety: none.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "bucketd/status.h"
#include "daemon/plans/moves.h"

namespace bucketd::torchscript {

class TensorTape {
 public:
  // The caller's input `index`, contiguous.
  Status add_input(std::uint32_t index, const at::Tensor& tensor);

  // Memory that an operator made, holding anything.
  Status add_unwritten(const at::Tensor& tensor);
  // Memory whose numbers depend on no input; they are taken from it.
  Status add_constant(const at::Tensor& tensor);
  // The same for memory that outlives a run of the kernel: it must not be written.
  Status add_kept_constant(const at::Tensor& tensor);

  // `to` has been written with the elements of `from`, broadcast and converted. Errors:
  // UNIMPLEMENTED when `to` is not the kernel's own memory or the conversion is not exact.
  Status copy(const at::Tensor& to, const at::Tensor& from);
  // `to` has been written with numbers that depend on no input.
  Status write_constant(const at::Tensor& to);
  // `to` has been filled with the element whose bits these are.
  Status fill(const at::Tensor& to, std::uint64_t bits);

  bool knows(const at::Tensor& tensor) const;
  // Whether the numbers of `tensor` are known: they depend on no input, and all were written.
  bool is_constant(const at::Tensor& tensor) const;

  // Whether it is a constant that the next run of the kernel will see, too.
  bool outlives_run(const at::Tensor& tensor) const;

  // Makes `result` the bucket's input `index`.
  Status add_output(std::uint32_t index, const at::Tensor& result);

  // What was recorded; the tape is used up.
  MoveList take() { return std::move(list_); }

 private:
  struct Memory {
    std::uint32_t buffer = 0;
    const char* read_only = nullptr;  // what it is, if it must not be written
    bool outlives_run = false;
    bool has_unwritten = false;  // in doubt true
    bool has_inputs = false;     // something of an input is in it, in doubt true
    at::Storage keep_alive;      // so that no other storage gets its address
  };

  Result<Memory*> add(const at::Tensor& tensor);
  Memory* find(const at::Tensor& tensor);
  const Memory* find(const at::Tensor& tensor) const;
  Result<Memory*> find_writable(const at::Tensor& tensor);
  Status move(std::uint32_t to_buffer, const at::Tensor& to, std::uint32_t from_buffer,
              const at::Tensor& from);
  Status move_fill(std::uint32_t to_buffer, const at::Tensor& to, std::uint64_t bits);

  MoveList list_;
  std::unordered_map<const void*, Memory> memories_;  // by StorageImpl
};

}  // namespace bucketd::torchscript
