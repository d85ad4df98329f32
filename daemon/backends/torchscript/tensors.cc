#include "daemon/backends/torchscript/tensors.h"

#include <cstring>
#include <exception>
#include <new>

#include "daemon/backends/torchscript/exception_text.h"
#include "daemon/backends/torchscript/libtorch_errors.h"

namespace bucketd::torchscript {

Status status_from_libtorch(const std::string& what_failed, StatusCode code) {
  std::string what;
  try {
    throw;
  } catch (const c10::Error& exception) {
    what = exception.what_without_backtrace();
  } catch (const std::exception& exception) {
    what = exception.what();
  } catch (...) {
    what = "an exception of unknown type";
  }
  if (is_out_of_memory(what)) code = StatusCode::kResourceExhausted;
  return Status(code, what_failed + ": " + readable_reason(what));
}

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kUint8:
      return at::kByte;
    case DType::kInt8:
      return at::kChar;
    case DType::kInt16:
      return at::kShort;
    case DType::kInt32:
      return at::kInt;
    case DType::kInt64:
      return at::kLong;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kBfloat16:
      return at::kBFloat16;
    case DType::kFloat32:
      return at::kFloat;
    case DType::kFloat64:
      return at::kDouble;
  }
  return at::ScalarType::Undefined;
}

std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kUint8;
    case at::kChar:
      return DType::kInt8;
    case at::kShort:
      return DType::kInt16;
    case at::kInt:
      return DType::kInt32;
    case at::kLong:
      return DType::kInt64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBfloat16;
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    default:
      return std::nullopt;
  }
}

at::Tensor tensor_on(const TensorView& view) {
  const at::TensorOptions options = at::TensorOptions(scalar_type(view.dtype)).device(at::kCPU);
  if (view.data == nullptr) return at::empty(sizes_of(view.shape), options);
  return at::from_blob(view.data, sizes_of(view.shape), options);
}

at::Tensor tensor_on(const ConstTensorView& view) {
  // from_blob knows no constant memory. Nothing is written: inputs that a bucket changes in place
  // are copied first (LoadedModule).
  return tensor_on(TensorView{view.dtype, view.shape, const_cast<std::byte*>(view.data)});
}

bool has_signature(const at::Tensor& tensor, DType dtype, const Shape& shape) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.is_cpu() &&
         tensor.scalar_type() == scalar_type(dtype) && tensor.sizes() == sizes_of(shape);
}

std::string signature_text(const at::Tensor& tensor) {
  if (!tensor.defined()) return "no tensor";
  const std::optional<DType> dtype = dtype_of(tensor.scalar_type());
  std::string text = dtype ? std::string(dtype_name(*dtype)) : c10::toString(tensor.scalar_type());
  text += " [";
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if (d > 0) text += ", ";
    text += std::to_string(tensor.size(d));
  }
  text += "]";
  if (tensor.layout() != at::kStrided) text += " (not dense)";
  if (!tensor.is_cpu()) text += " (not in the CPU's memory)";
  return text;
}

std::string signature_text(DType dtype, const Shape& shape) {
  return std::string(dtype_name(dtype)) + " " + shape.to_string();
}

void copy_into(const TensorView& destination, const at::Tensor& source) {
  if (source.numel() == 0) return;
  if (source.is_contiguous()) {
    std::memcpy(destination.data, source.data_ptr(), source.nbytes());
  } else {
    tensor_on(destination).copy_(source);
  }
}

}  // namespace bucketd::torchscript
