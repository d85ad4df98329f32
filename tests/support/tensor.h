// Tensor: an array with its bytes, and one-line calls of models with such, for tests.
#pragma once

#include <cstddef>
#include <cstring>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "bucketd/client.h"

namespace bucketd {
// How GoogleTest prints a Status.
void PrintTo(const Status& status, std::ostream* out);
}  // namespace bucketd

namespace bucketd::test {

struct Tensor {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<std::byte> data;  // contiguous, row-major

  template <typename T>
  std::vector<T> values() const {
    std::vector<T> result(data.size() / sizeof(T));
    if (!data.empty()) std::memcpy(result.data(), data.data(), data.size());
    return result;
  }
  TensorSignature signature() const { return {dtype, shape}; }
  friend bool operator==(const Tensor&, const Tensor&) = default;
};
void PrintTo(const Tensor& tensor, std::ostream* out);

template <typename T>
Tensor tensor(const Shape& shape, const std::vector<T>& values) {
  Tensor result{DTypeOf<T>::kValue, shape, std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(result.data.data(), values.data(), result.data.size());
  return result;
}
// The same value everywhere.
template <typename T>
Tensor filled(const Shape& shape, T value) {
  return tensor<T>(shape, std::vector<T>(*shape.element_count(), value));
}
// Of any dtype, with bytes that are valid values of it and depend on `seed`.
Tensor patterned(DType dtype, const Shape& shape, unsigned seed);

struct CallOptions {
  bool force_raw = false;
  bool unchecked = false;  // by-pass the client's own checks, to reach the daemon's
  Deadline deadline = std::nullopt;
  std::uint8_t priority = 0;
};

struct Answer {
  std::vector<Tensor> outputs;  // cropped
  std::uint32_t bucket = 0;
  bool was_padded = false;  // the request was laid out by a plan
};

Result<Request> prepare(Model& model, std::span<const Tensor> inputs,
                        const CallOptions& options = {});
Result<Future> submit(Model& model, std::span<const Tensor> inputs,
                      const CallOptions& options = {});
Result<Answer> call(Model& model, std::span<const Tensor> inputs, const CallOptions& options = {});
Result<Answer> call(Model& model, std::initializer_list<Tensor> inputs,
                    const CallOptions& options = {});
std::vector<Tensor> outputs_of(const Reply& reply);

}  // namespace bucketd::test
