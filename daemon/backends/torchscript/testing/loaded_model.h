// For tests of the backend: loads test artifacts, and calls models with vectors of C++ types.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "daemon/backends/backend.h"

namespace bucketd::torchscript::testing {

// Memory of one tensor, 64-byte aligned, filled with 0xee.
class Tensor {
 public:
  Tensor(DType dtype, const Shape& shape)
      : dtype_(dtype),
        shape_(shape),
        memory_(static_cast<std::size_t>(shape.byte_size(dtype).value()) + kAlignment,
                std::byte{0xee}) {}

  template <typename T>
  static Tensor of(const Shape& shape, const std::vector<T>& values) {
    Tensor tensor(DTypeOf<T>::kValue, shape);
    EXPECT_EQ(values.size(), shape.element_count());
    // vector<bool> has no data(): element by element.
    for (std::size_t i = 0; i < values.size(); ++i) {
      const T value = values[i];
      std::memcpy(tensor.data() + i * sizeof(T), &value, sizeof(T));
    }
    return tensor;
  }
  // Elements `first`, `first` + 1, ...
  template <typename T>
  static Tensor counting(const Shape& shape, T first) {
    std::vector<T> values;
    for (std::uint64_t i = 0; i < shape.element_count(); ++i) {
      values.push_back(static_cast<T>(first + static_cast<T>(i)));
    }
    return of<T>(shape, values);
  }

  std::byte* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (kAlignment - address % kAlignment) % kAlignment;
  }
  TensorView view() { return {dtype_, shape_, data()}; }
  ConstTensorView const_view() { return {dtype_, shape_, data()}; }
  std::size_t size_bytes() const { return *shape_.byte_size(dtype_); }
  std::string_view bytes() { return {reinterpret_cast<const char*>(data()), size_bytes()}; }

  template <typename T>
  std::vector<T> values() {
    std::vector<T> values(size_bytes() / sizeof(T));
    std::memcpy(values.data(), data(), size_bytes());
    return values;
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  DType dtype_;
  Shape shape_;
  std::vector<std::byte> memory_;
};

inline std::unique_ptr<Backend> make_backend(const BackendOptions& options = {}) {
  auto backend = make_torchscript_backend(options);
  if (!backend) {
    ADD_FAILURE() << backend.error().to_string();
    return nullptr;
  }
  (*backend)->prepare_executor_thread(0);
  return std::move(*backend);
}

inline Result<std::unique_ptr<BucketModel>> try_load(Backend& backend, const std::string& path,
                                                     const std::string& name = "") {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(fd.is_open()) << path;
  return backend.load(fd.get(), name);
}

// A model and memory for its outputs and states.
class LoadedModel {
 public:
  // Loads FOLDER/NAME.pt; FOLDER is the build's.
  LoadedModel(Backend& backend, const std::string& name) {
    auto model = try_load(backend, std::string(BUCKETD_BACKEND_ARTIFACTS "/") + name + ".pt");
    if (!model) {
      ADD_FAILURE() << model.error().to_string();
      return;
    }
    model_ = std::move(*model);
    for (const StateSpec& state : model_->description().states) {
      states_.emplace_back(state.dtype, state.shape);
    }
    const Status status = model_->initialise_states(views_of(states_));
    EXPECT_TRUE(status.ok()) << status.to_string();
    if (states_.empty()) return;
    auto bound = model_->bind_states(views_of(states_));
    EXPECT_TRUE(bound.has_value()) << bound.error().to_string();
    if (bound) bound_ = std::move(*bound);
  }

  BucketModel& operator*() { return *model_; }
  BucketModel* operator->() { return model_.get(); }
  explicit operator bool() const { return model_ != nullptr; }
  Tensor& state(std::size_t s) { return states_[s]; }
  const BoundStates& bound_states() const { return *bound_; }
  // Of all requests so far.
  const StateTraffic& traffic() const { return traffic_; }

  // Kernel, then bucket. The bucket that ran and its outputs, padded.
  struct Reply {
    std::size_t bucket = 0;
    std::vector<Tensor> outputs;
  };
  Result<Reply> run(std::vector<Tensor> inputs) {
    auto prepared = model_->run_kernel(0, const_views_of(inputs));
    if (!prepared) return error(prepared.error());
    return execute(**prepared);
  }
  // Without the kernel.
  Result<Reply> run_padded(std::size_t bucket, std::vector<Tensor>& inputs) {
    auto prepared = model_->wrap(0, bucket, const_views_of(inputs));
    if (!prepared) return error(prepared.error());
    return execute(**prepared);
  }
  Result<Reply> execute(PreparedInputs& prepared) {
    Reply reply{prepared.bucket(), {}};
    const ModelDescription& description = model_->description();
    for (std::size_t o = 0; o < description.outputs.size(); ++o) {
      reply.outputs.emplace_back(description.outputs[o].dtype,
                                 description.buckets[reply.bucket].outputs[o]);
    }
    const Status status =
        model_->execute(0, prepared, bound_.get(), views_of(reply.outputs), traffic_);
    if (!status.ok()) return error(status);
    return reply;
  }

 private:
  static std::vector<TensorView> views_of(std::vector<Tensor>& tensors) {
    std::vector<TensorView> views;
    for (Tensor& tensor : tensors) views.push_back(tensor.view());
    return views;
  }
  static std::vector<ConstTensorView> const_views_of(std::vector<Tensor>& tensors) {
    std::vector<ConstTensorView> views;
    for (Tensor& tensor : tensors) views.push_back(tensor.const_view());
    return views;
  }

  std::unique_ptr<BucketModel> model_;
  std::vector<Tensor> states_;
  std::unique_ptr<BoundStates> bound_;  // null without states
  StateTraffic traffic_;
};

}  // namespace bucketd::torchscript::testing
