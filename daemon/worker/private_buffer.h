// PrivateBuffer: memory of one thread, reused from request to request.
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "common/channel_layout.h"

namespace bucketd {

class PrivateBuffer {
 public:
  // At least `bytes` bytes at a multiple of kTensorAlignment, contents unspecified; what was
  // there before is gone. Grows, never shrinks. Null when there is no memory. Pages that nobody
  // touches cost nothing.
  std::byte* reserve(std::uint64_t bytes) {
    if (bytes > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<std::byte*>(
          ::operator new(bytes, std::align_val_t(kTensorAlignment), std::nothrow)));
      if (data_ == nullptr) return nullptr;
      capacity_ = bytes;
    }
    return data_.get();
  }

  std::byte* data() const { return data_.get(); }
  std::uint64_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete(data, std::align_val_t(kTensorAlignment));
    }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::uint64_t capacity_ = 0;
};

}  // namespace bucketd
