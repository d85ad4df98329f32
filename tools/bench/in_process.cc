#include "tools/bench/in_process.h"

#include <ATen/Parallel.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/torch.h>

#include <exception>
#include <optional>
#include <utility>

namespace bucketd {
namespace {

at::ScalarType scalar_type_of(DType dtype) {
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
  return at::kFloat;
}

class TorchModel final : public InProcessModel {
 public:
  explicit TorchModel(torch::jit::Module module) : module_(std::move(module)) {}

  Status run(std::span<const ConstTensorView> inputs) override {
    try {
      const c10::InferenceMode inference;
      std::vector<c10::IValue> arguments;
      arguments.reserve(inputs.size());
      for (const ConstTensorView& input : inputs) {
        // from_blob takes no const pointer; forward() does not write to its inputs.
        auto* data = const_cast<std::byte*>(input.data);
        const std::span<const std::int64_t> dims = input.shape.dims();
        arguments.emplace_back(torch::from_blob(data, at::IntArrayRef(dims.data(), dims.size()),
                                                scalar_type_of(input.dtype)));
      }
      keep(module_.forward(std::move(arguments)));
      return {};
    } catch (const std::exception& problem) {
      return {StatusCode::kInternal, std::string("in-process forward: ") + problem.what()};
    }
  }

  std::vector<double> output(std::size_t index) const override {
    const at::Tensor values = outputs_.at(index).to(at::kDouble).contiguous();
    return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
  }

 private:
  void keep(const c10::IValue& result) {
    outputs_.clear();
    if (result.isTensor()) {
      outputs_.push_back(result.toTensor());
    } else if (result.isTuple()) {
      for (const c10::IValue& element : result.toTupleRef().elements()) {
        outputs_.push_back(element.toTensor());
      }
    } else {
      for (const at::Tensor& tensor : result.toTensorVector()) outputs_.push_back(tensor);
    }
  }

  torch::jit::Module module_;
  std::vector<at::Tensor> outputs_;
};

}  // namespace

Result<std::unique_ptr<InProcessModel>> load_in_process(const std::string& path, int threads) {
  try {
    at::set_num_threads(threads);
    torch::jit::Module module = torch::jit::load(path);
    module.eval();
    return std::make_unique<TorchModel>(std::move(module));
  } catch (const std::exception& problem) {
    return error(StatusCode::kInvalidArgument, "'" + path + "': " + problem.what());
  }
}

}  // namespace bucketd
