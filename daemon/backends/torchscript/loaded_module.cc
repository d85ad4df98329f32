#include "daemon/backends/torchscript/loaded_module.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <stdexcept>
#include <utility>

#include "daemon/backends/torchscript/file_reading.h"
#include "daemon/backends/torchscript/input_use.h"
#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/storages.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

// Lets LibTorch read the artifact by descriptor: no path, no second copy of the file in memory.
class FileReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  FileReader(int fd, std::uint64_t size_bytes) : fd_(fd), size_bytes_(size_bytes) {}

  std::size_t size() const override { return static_cast<std::size_t>(size_bytes_); }

  std::size_t read(std::uint64_t position, void* buffer, std::size_t count,
                   const char* /*what*/ = "") const override {
    if (position > size_bytes_ || size_bytes_ - position < count) return 0;
    const Status status = read_range(fd_, position, {static_cast<std::byte*>(buffer), count});
    if (!status.ok()) throw std::runtime_error(status.message());
    return count;
  }

 private:
  const int fd_;
  const std::uint64_t size_bytes_;
};

std::string numbered(const char* what, std::size_t number) {
  return std::string(what) + "_" + std::to_string(number);
}

bool takes_tensors(const torch::jit::Function& function, std::size_t count) {
  const auto& arguments = function.getSchema().arguments();
  if (arguments.size() != count + 1) return false;  // self
  return std::all_of(arguments.begin() + 1, arguments.end(), [](const c10::Argument& argument) {
    return argument.type()->isSubtypeOf(*c10::TensorType::get());
  });
}

bool takes_types(const torch::jit::Function& function,
                 std::initializer_list<c10::TypePtr> expected) {
  const auto& arguments = function.getSchema().arguments();
  if (arguments.size() != expected.size() + 1) return false;
  return std::equal(expected.begin(), expected.end(), arguments.begin() + 1,
                    [](const c10::TypePtr& type, const c10::Argument& argument) {
                      return type->isSubtypeOf(*argument.type());
                    });
}

c10::IValue tensor_list(const std::vector<at::Tensor>& tensors) {
  c10::List<at::Tensor> list;
  list.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) list.push_back(tensor);
  return list;
}

// The tensors of a bucket's result: a tensor, a flat tuple of tensors, or nothing.
std::optional<std::vector<at::Tensor>> flat_tensors(const c10::IValue& value) {
  std::vector<at::Tensor> tensors;
  if (value.isTensor()) {
    tensors.push_back(value.toTensor());
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) {
      if (!element.isTensor()) return std::nullopt;
      tensors.push_back(element.toTensor());
    }
  } else if (!value.isNone()) {
    return std::nullopt;
  }
  return tensors;
}

std::string shapes_text(const std::vector<at::Tensor>& tensors) {
  std::string text;
  for (const at::Tensor& tensor : tensors) {
    if (!text.empty()) text += ", ";
    text += signature_text(tensor);
  }
  return text;
}

// For every input, the largest size that a bucket has in each dimension.
std::string largest_shapes_text(const ModelDescription& model) {
  std::string text;
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    Shape largest = model.buckets.front().inputs[i];
    for (const BucketSpec& bucket : model.buckets) {
      for (std::size_t d = 0; d < largest.rank(); ++d) {
        largest[d] = std::max(largest[d], bucket.inputs[i][d]);
      }
    }
    text += (text.empty() ? "" : ", ") + signature_text(model.inputs[i].dtype, largest);
  }
  return text;
}

}  // namespace

Result<std::unique_ptr<LoadedModule>> LoadedModule::load(int fd, const Artifact& artifact) {
  // Not make_unique: the constructor is private.
  std::unique_ptr<LoadedModule> loaded(new LoadedModule(artifact.description));
  // LibTorch says the same, but leaks its reader.
  constexpr std::uint64_t kLeast = caffe2::serialize::kMinSupportedFileFormatVersion;
  constexpr std::uint64_t kMost = caffe2::serialize::kMaxSupportedFileFormatVersion;
  if (artifact.format_version < kLeast || artifact.format_version > kMost) {
    return loaded->unfit("the archive has LibTorch's file format " +
                         std::to_string(artifact.format_version) + "; this LibTorch reads " +
                         std::to_string(kLeast) + " to " + std::to_string(kMost));
  }
  try {
    const torch::jit::Module module = torch::jit::load(
        std::make_shared<FileReader>(fd, artifact.file_bytes), at::Device(at::kCPU));
    if (Status status = loaded->take_apart(module); !status.ok()) return error(std::move(status));
  } catch (...) {
    return error(status_from_libtorch(loaded->model_text() + ": LibTorch cannot load it",
                                      StatusCode::kInvalidArgument));
  }
  return loaded;
}

tl::unexpected<Status> LoadedModule::unfit(const std::string& what) const {
  return error(StatusCode::kInvalidArgument, model_text() + ": " + what);
}

Status LoadedModule::take_apart(const torch::jit::Module& module) {
  module_ = module;
  module_.eval();
  self_ = module_._ivalue();
  // Storages are checked first, and again when equal ones have become one: what runs, runs on them.
  for (const auto step :
       {&LoadedModule::measure_storages, &LoadedModule::find_buckets, &LoadedModule::find_kernel,
        &LoadedModule::find_preprocessor, &LoadedModule::share_weights, &LoadedModule::find_states,
        &LoadedModule::measure_storages}) {
    if (Status status = (this->*step)(); !status.ok()) return status;
  }
  return Status();
}

// N buckets at the memory of one: weights that the file holds once for each bucket.
Status LoadedModule::share_weights() {
  std::vector<at::Tensor> kept_apart;
  // Every method that is ever run.
  std::vector<std::pair<const torch::jit::Function*, c10::IValue>> methods{{kernel_, self_}};
  if (preprocessor_ != nullptr) methods.emplace_back(preprocessor_, self_);
  for (const Bucket& bucket : buckets_) methods.emplace_back(bucket.forward, bucket.self);
  for (const auto& [method, self] : methods) {
    const std::optional<std::vector<at::Tensor>> written = written_kept_tensors(*method, self);
    if (!written) return Status();  // nobody knows: all stay apart
    kept_apart.insert(kept_apart.end(), written->begin(), written->end());
  }
  std::vector<at::Tensor> weights = graph_constants(module_);
  for (const torch::jit::NameValue& attribute : module_.named_attributes(/*recurse=*/true)) {
    if (attribute.value.isTensor()) weights.push_back(attribute.value.toTensor());
  }
  share_equal_storages(weights, kept_apart);
  return Status();
}

Status LoadedModule::measure_storages() {
  std::vector<at::Tensor> tensors = graph_constants(module_);
  c10::IValue::HashAliasedIValues values;
  self_.getSubValues(values);
  for (const c10::IValue& value : values) {
    if (value.isTensor()) tensors.push_back(value.toTensor());
  }
  const Result<std::uint64_t> bytes = distinct_storage_bytes(tensors);
  if (!bytes) return bytes.error().with_context(model_text());
  resident_bytes_ = *bytes;
  return Status();
}

Status LoadedModule::find_buckets() {
  const std::size_t arguments = description_.inputs.size() + description_.states.size();
  reasons_to_copy_.resize(description_.inputs.size());
  for (std::size_t b = 0; b < description_.buckets.size(); ++b) {
    const std::string name = numbered("bucket", b);
    if (!module_.hasattr(name) || !module_.attr(name).isModule()) {
      return unfit("the module has no submodule '" + name + "'").value();
    }
    const torch::jit::Module bucket = module_.attr(name).toModule();
    const auto forward = bucket.find_method("forward");
    if (!forward || !takes_tensors(forward->function(), arguments)) {
      return unfit("the forward of '" + name + "' does not take " + std::to_string(arguments) +
                   " tensors, the inputs and the states")
          .value();
    }
    buckets_.push_back(
        {bucket._ivalue(), &forward->function(), written_arguments(forward->function())});
    const std::vector<std::string> reasons = torchscript::reasons_to_copy(forward->function());
    for (std::size_t i = 0; i < reasons_to_copy_.size(); ++i) {
      if (reasons_to_copy_[i].empty()) reasons_to_copy_[i] = reasons[i];
    }
  }
  if (module_.hasattr(numbered("bucket", description_.buckets.size()))) {
    return unfit("the module has more buckets than the metadata's " +
                 std::to_string(description_.buckets.size()))
        .value();
  }
  return Status();
}

Status LoadedModule::find_kernel() {
  const auto kernel = module_.find_method("bucket_kernel");
  if (!kernel) return unfit("the module has no method 'bucket_kernel'").value();
  kernel_ = &kernel->function();
  if (!takes_types(*kernel_, {c10::ListType::ofTensors()})) {
    return unfit("'bucket_kernel' does not take one list of tensors").value();
  }
  return Status();
}

Status LoadedModule::find_preprocessor() {
  const auto preprocessor = module_.find_method("state_preprocessor");
  if (!description_.has_preprocessor) return Status();
  if (!preprocessor) {
    return unfit("the metadata name a preprocessor, the module has no method 'state_preprocessor'")
        .value();
  }
  preprocessor_ = &preprocessor->function();
  const c10::TypePtr shapes_collection =
      c10::ListType::create(c10::ListType::create(c10::ListType::ofInts()));
  if (!takes_types(*preprocessor_,
                   {shapes_collection, c10::ListType::ofTensors(), c10::TensorType::get()})) {
    return unfit("'state_preprocessor' does not take List[List[List[int]]], List[Tensor], Tensor")
        .value();
  }
  preprocessor_analysis_ = analyse_preprocessor(*preprocessor_);
  c10::List<c10::List<c10::List<std::int64_t>>> buckets;
  for (const BucketSpec& bucket : description_.buckets) {
    c10::List<c10::List<std::int64_t>> states;
    for (const Shape& shape : bucket.states) {
      states.push_back(c10::List<std::int64_t>(sizes_of(shape)));
    }
    buckets.push_back(std::move(states));
  }
  shapes_collection_ = std::move(buckets);
  return Status();
}

Status LoadedModule::find_states() {
  for (std::size_t s = 0; s < description_.states.size(); ++s) {
    const StateSpec& spec = description_.states[s];
    const std::string name = numbered("state", s);
    if (!module_.hasattr(name) || !module_.attr(name).isTensor()) {
      return unfit("the module has no buffer '" + name + "', the initial value of state '" +
                   spec.name + "'")
          .value();
    }
    const at::Tensor value = module_.attr(name).toTensor();
    if (!has_signature(value, spec.dtype, spec.shape)) {
      return unfit("the initial value of state '" + spec.name + "' is " + signature_text(value) +
                   " where the metadata say " + signature_text(spec.dtype, spec.shape))
          .value();
    }
    initial_states_.push_back(value.detach().contiguous());
  }
  if (module_.hasattr(numbered("state", description_.states.size()))) {
    return unfit("the module has more states than the metadata's " +
                 std::to_string(description_.states.size()))
        .value();
  }
  return Status();
}

Result<KernelResult> LoadedModule::run_kernel(const std::vector<at::Tensor>& inputs) const {
  c10::IValue raw;
  try {
    torch::jit::Stack stack{self_, tensor_list(inputs)};
    kernel_->run(stack);
    raw = std::move(stack.back());
  } catch (...) {
    return error(status_from_libtorch(
        model_text() + ": the bucket kernel fails on inputs of " + shapes_text(inputs),
        StatusCode::kInvalidArgument));
  }
  const auto misfit = [this](const std::string& what) {
    return error(StatusCode::kInternal, model_text() + ": the bucket kernel " + what);
  };
  try {
    if (!raw.isTuple() || raw.toTupleRef().elements().size() != 2 ||
        !raw.toTupleRef().elements()[0].isTensorList() ||
        !raw.toTupleRef().elements()[1].isTensor()) {
      return misfit("does not give a list of tensors and an index tensor");
    }
    KernelResult result;
    result.inputs = raw.toTupleRef().elements()[0].toTensorVector();
    if (result.inputs.empty()) {
      return error(StatusCode::kOutOfRange, model_text() + ": no bucket takes inputs of " +
                                                shapes_text(inputs) + "; the largest sizes are " +
                                                largest_shapes_text(description_));
    }
    const at::Tensor& index = raw.toTupleRef().elements()[1].toTensor();
    if (!index.defined() || index.numel() != 1 ||
        !at::isIntegralType(index.scalar_type(), /*includeBool=*/false)) {
      return misfit("gives as index " + signature_text(index) + " where one integer is expected");
    }
    const auto bucket = index.item<std::int64_t>();
    if (bucket < 0 || static_cast<std::uint64_t>(bucket) >= buckets_.size()) {
      return misfit("chose bucket " + std::to_string(bucket) + " of " +
                    std::to_string(buckets_.size()));
    }
    result.bucket = static_cast<std::size_t>(bucket);
    if (result.inputs.size() != description_.inputs.size()) {
      return misfit("gave " + std::to_string(result.inputs.size()) + " tensors where " +
                    std::to_string(description_.inputs.size()) + " are expected");
    }
    for (std::size_t i = 0; i < result.inputs.size(); ++i) {
      const Shape& shape = description_.buckets[result.bucket].inputs[i];
      const DType dtype = description_.inputs[i].dtype;
      at::Tensor& input = result.inputs[i];
      if (!has_signature(input, dtype, shape)) {
        return misfit("chose bucket " + std::to_string(bucket) + " and gave input '" +
                      description_.inputs[i].name + "' as " + signature_text(input) +
                      " where that bucket takes " + signature_text(dtype, shape));
      }
      // Buckets were compiled for dense inputs. An input that the kernel hands through is the
      // caller's memory.
      input = input.contiguous();
      if (writes_input(result.bucket, i)) input = input.clone();
    }
    return result;
  } catch (...) {
    return error(status_from_libtorch(model_text() + ": the bucket kernel's result is unusable",
                                      StatusCode::kInternal));
  }
}

Result<std::vector<at::Tensor>> LoadedModule::run_preprocessor(
    std::size_t bucket, const std::vector<at::Tensor>& states) const {
  try {
    // Copies: TorchScript could change a list or an index that it is given.
    torch::jit::Stack stack{self_, shapes_collection_.deepcopy(), tensor_list(states),
                            at::full({1}, static_cast<std::int64_t>(bucket), at::kLong)};
    preprocessor_->run(stack);
    if (!stack.back().isTensorList()) {
      return error(StatusCode::kInternal,
                   model_text() + ": the state preprocessor does not give a list of tensors");
    }
    return stack.back().toTensorVector();
  } catch (...) {
    return error(status_from_libtorch(
        model_text() + ": the state preprocessor fails for bucket " + std::to_string(bucket),
        StatusCode::kInternal));
  }
}

Result<std::vector<at::Tensor>> LoadedModule::run_bucket(
    std::size_t bucket, const std::vector<at::Tensor>& inputs,
    const std::vector<at::Tensor>& state_views) const {
  const auto where = [this, bucket] { return model_text() + ": bucket " + std::to_string(bucket); };
  try {
    torch::jit::Stack stack;
    stack.reserve(1 + inputs.size() + state_views.size());
    stack.push_back(buckets_[bucket].self);
    stack.insert(stack.end(), inputs.begin(), inputs.end());
    stack.insert(stack.end(), state_views.begin(), state_views.end());
    buckets_[bucket].forward->run(stack);

    std::optional<std::vector<at::Tensor>> outputs = flat_tensors(stack.back());
    const std::size_t ordinary = description_.outputs.size();
    const std::size_t total = ordinary + description_.aliases.size();
    if (!outputs || outputs->size() != total) {
      return error(StatusCode::kInternal,
                   where() + " gives " +
                       (outputs ? std::to_string(outputs->size()) + " outputs"
                                : "something else than tensors") +
                       " where the metadata say " + std::to_string(total) + " tensors");
    }
    const auto misfit = [&](const std::string& name, const at::Tensor& given, DType dtype,
                            const Shape& shape) {
      return error(StatusCode::kInternal, where() + ", " + name + ": it gives " +
                                              signature_text(given) + " where the metadata say " +
                                              signature_text(dtype, shape));
    };
    const BucketSpec& spec = description_.buckets[bucket];
    for (std::size_t o = 0; o < ordinary; ++o) {
      const TensorSpec& output = description_.outputs[o];
      if (!has_signature((*outputs)[o], output.dtype, spec.outputs[o])) {
        return misfit("output '" + output.name + "'", (*outputs)[o], output.dtype, spec.outputs[o]);
      }
    }
    for (const AliasSpec& alias : description_.aliases) {
      const StateSpec& state = description_.states[alias.state];
      if (!has_signature((*outputs)[alias.output], state.dtype, spec.states[alias.state])) {
        return misfit("the output that updates state '" + state.name + "'",
                      (*outputs)[alias.output], state.dtype, spec.states[alias.state]);
      }
    }
    return std::move(*outputs);
  } catch (...) {
    return error(status_from_libtorch(where() + " fails", StatusCode::kInternal));
  }
}

}  // namespace bucketd::torchscript
