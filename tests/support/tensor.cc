#include "tests/support/tensor.h"

#include <algorithm>
#include <utility>

namespace bucketd {

void PrintTo(const Status& status, std::ostream* out) { *out << status.to_string(); }

}  // namespace bucketd

namespace bucketd::test {

void PrintTo(const Tensor& tensor, std::ostream* out) {
  *out << dtype_name(tensor.dtype) << tensor.shape.to_string() << " bytes";
  constexpr std::size_t kShown = 64;
  for (std::size_t i = 0; i < std::min(tensor.data.size(), kShown); ++i) {
    *out << ' ' << std::to_integer<int>(tensor.data[i]);
  }
  if (tensor.data.size() > kShown) *out << " ...";
}

Tensor patterned(DType dtype, const Shape& shape, unsigned seed) {
  Tensor result{dtype, shape, std::vector<std::byte>(*shape.byte_size(dtype))};
  const std::size_t size = dtype_size_bytes(dtype);
  for (std::size_t i = 0; i < result.data.size(); ++i) {
    unsigned value = (static_cast<unsigned>(i) + seed) * 2654435761U >> 24;
    if (dtype == DType::kBool) value &= 1;
    // No exponent of ones: NaNs do not compare, and their payload need not survive arithmetic.
    if (is_floating_point(dtype) && i % size == size - 1) value &= 0xBB;
    result.data[i] = static_cast<std::byte>(value);
  }
  return result;
}

Result<Request> prepare(Model& model, std::span<const Tensor> inputs, const CallOptions& options) {
  std::vector<TensorSignature> signatures;
  std::vector<Shape> shapes;
  for (const Tensor& input : inputs) {
    signatures.push_back(input.signature());
    shapes.push_back(input.shape);
  }
  const RequestOptions request_options{.wait_until = options.deadline,
                                       .force_raw = options.force_raw};
  Result<Request> request = options.unchecked
                                ? model.new_unchecked_request(signatures, request_options)
                                : model.new_request(shapes, request_options);
  if (!request) return request;
  for (std::size_t i = 0; i < inputs.size(); ++i) request->raw_input(i).copy_from(inputs[i].data);
  request->set_deadline(options.deadline);
  request->set_priority(options.priority);
  return request;
}

Result<Future> submit(Model& model, std::span<const Tensor> inputs, const CallOptions& options) {
  Result<Request> request = prepare(model, inputs, options);
  if (!request) return error(request.error());
  return std::move(*request).submit();
}

std::vector<Tensor> outputs_of(const Reply& reply) {
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < reply.output_count(); ++i) {
    const RawTensorSpan raw = reply.raw_output(i);
    Tensor output{raw.dtype, raw.shape, std::vector<std::byte>(*raw.shape.byte_size(raw.dtype))};
    raw.copy_to(output.data);
    outputs.push_back(std::move(output));
  }
  return outputs;
}

Result<Answer> call(Model& model, std::span<const Tensor> inputs, const CallOptions& options) {
  Result<Request> request = prepare(model, inputs, options);
  if (!request) return error(request.error());
  const bool padded = request->is_padded();
  const Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());
  return Answer{outputs_of(*reply), reply->bucket(), padded};
}

Result<Answer> call(Model& model, std::initializer_list<Tensor> inputs,
                    const CallOptions& options) {
  return call(model, std::span<const Tensor>(inputs.begin(), inputs.size()), options);
}

}  // namespace bucketd::test
