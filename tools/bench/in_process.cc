#include "tools/bench/in_process.h"

#include <ATen/Parallel.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/torch.h>

#include <exception>
#include <nlohmann/json.hpp>
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

// from_blob takes no const pointer; nothing here writes to its inputs.
at::Tensor wrapped(const ConstTensorView& view) {
  const std::span<const std::int64_t> dims = view.shape.dims();
  return torch::from_blob(const_cast<std::byte*>(view.data),
                          at::IntArrayRef(dims.data(), dims.size()), scalar_type_of(view.dtype));
}

// Shapes of the states for each bucket, as the preprocessor takes them.
c10::IValue shapes_collection(const std::string& metadata) {
  c10::List<c10::List<c10::List<std::int64_t>>> collection;
  const nlohmann::json description = nlohmann::json::parse(metadata);
  for (const auto& bucket : description.at("buckets")) {
    c10::List<c10::List<std::int64_t>> shapes;
    for (const auto& shape : bucket.at("states")) {
      shapes.push_back(c10::List<std::int64_t>(shape.get<std::vector<std::int64_t>>()));
    }
    collection.push_back(shapes);
  }
  return collection;
}

class TorchModel final : public InProcessModel {
 public:
  TorchModel(torch::jit::Module module, std::string metadata)
      : module_(std::move(module)),
        kernel_(module_.get_method("bucket_kernel")),
        metadata_(std::move(metadata)) {}

  Status run(std::span<const ConstTensorView> inputs) override {
    return guarded([&] {
      std::vector<c10::IValue> arguments;
      arguments.reserve(inputs.size());
      for (const ConstTensorView& input : inputs) arguments.emplace_back(wrapped(input));
      keep(module_.forward(std::move(arguments)));
    });
  }

  Status use(std::span<const ConstTensorView> inputs) override {
    return guarded([&] {
      inputs_.clear();
      c10::List<at::Tensor> list;
      for (const ConstTensorView& input : inputs) {
        inputs_.emplace_back(wrapped(input));
        list.push_back(inputs_.back().toTensor());
      }
      kernel_arguments_ = {list};
      const c10::IValue planned = kernel_(kernel_arguments_);
      const at::Tensor index = planned.toTupleRef().elements()[1].toTensor();
      bucket_inputs_.clear();
      for (const at::Tensor& tensor : planned.toTupleRef().elements()[0].toTensorVector()) {
        bucket_inputs_.emplace_back(tensor);
      }
      if (module_.hasattr("state_0")) add_states(index);
      bucket_ = module_.attr("bucket_" + std::to_string(index.item<std::int64_t>())).toModule();
    });
  }

  Status forward() override {
    return guarded([&] { result_ = module_.forward(inputs_); });
  }
  Status run_bucket() override {
    return guarded([&] { result_ = bucket_.forward(bucket_inputs_); });
  }
  Status run_kernel() override {
    return guarded([&] { result_ = kernel_(kernel_arguments_); });
  }

  std::span<const std::byte> output_bytes(std::size_t index) override {
    at::Tensor& tensor = outputs_.at(index);
    tensor = tensor.contiguous();
    return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
  }

  std::vector<double> output(std::size_t index) const override {
    const at::Tensor values = outputs_.at(index).to(at::kDouble).contiguous();
    return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
  }

 private:
  template <typename Work>
  static Status guarded(Work work) {
    try {
      const c10::InferenceMode inference;
      work();
      return {};
    } catch (const std::exception& problem) {
      return {StatusCode::kInternal, std::string("in-process: ") + problem.what()};
    }
  }

  void add_states(const at::Tensor& index) {
    c10::List<at::Tensor> states;
    for (int s = 0; module_.hasattr("state_" + std::to_string(s)); ++s) {
      states.push_back(module_.attr("state_" + std::to_string(s)).toTensor());
    }
    const auto preprocessor = module_.find_method("state_preprocessor");
    const std::vector<at::Tensor> views =
        preprocessor
            ? (*preprocessor)({shapes_collection(metadata_), states, index}).toTensorVector()
            : states.vec();
    for (const at::Tensor& view : views) bucket_inputs_.emplace_back(view);
  }

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
  torch::jit::Method kernel_;
  torch::jit::Module bucket_;
  std::string metadata_;  // the artifact's
  std::vector<at::Tensor> outputs_;
  c10::IValue result_;
  std::vector<c10::IValue> inputs_;
  std::vector<c10::IValue> kernel_arguments_;
  std::vector<c10::IValue> bucket_inputs_;  // padded, then the states' views
};

}  // namespace

Result<std::unique_ptr<InProcessModel>> load_in_process(const std::string& path, int threads) {
  try {
    at::set_num_threads(threads);
    torch::jit::ExtraFilesMap extra = {{"bucketd.json", ""}};
    torch::jit::Module module = torch::jit::load(path, c10::nullopt, extra);
    module.eval();
    return std::make_unique<TorchModel>(std::move(module), extra.at("bucketd.json"));
  } catch (const std::exception& problem) {
    return error(StatusCode::kInvalidArgument, "'" + path + "': " + problem.what());
  }
}

}  // namespace bucketd
