#include "daemon/worker/testing/fake_backend.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "daemon/plans/padding.h"
#include "daemon/plans/plan.h"

namespace bucketd::testing {
namespace {

class FakeInputs : public PreparedInputs {
 public:
  FakeInputs(std::size_t bucket, std::vector<ConstTensorView> views)
      : bucket_(bucket), views_(std::move(views)) {}
  std::size_t bucket() const override { return bucket_; }
  std::span<const ConstTensorView> views() const { return views_; }
  std::vector<std::vector<std::byte>> memory;  // of views that it made itself

 private:
  std::size_t bucket_;
  std::vector<ConstTensorView> views_;
};

struct FakeStates final : BoundStates {
  explicit FakeStates(std::span<const TensorView> full) : views(full.begin(), full.end()) {}
  const std::vector<TensorView> views;
};

}  // namespace

FakeModel::FakeModel(ModelDescription description, Hook hook,
                     std::function<Status()> initialise_hook)
    : description_(std::move(description)),
      hook_(std::move(hook)),
      initialise_hook_(std::move(initialise_hook)) {
  for (const StateSpec& state : description_.states) {
    initial_states_.emplace_back(*state.shape.byte_size(state.dtype));
    initial_states_.back()[0] = std::byte{100};
  }
}

Result<std::unique_ptr<PreparedInputs>> FakeModel::run_kernel(
    std::size_t /*executor*/, std::span<const ConstTensorView> inputs) {
  ++kernels_run_;
  std::vector<TensorSignature> signature;
  for (const ConstTensorView& input : inputs) signature.push_back({input.dtype, input.shape});
  Plan plan;
  if (Status status = make_plan(description_, signature, plan); !status.ok()) {
    return error(std::move(status));
  }
  std::vector<ConstTensorView> views;
  std::vector<std::vector<std::byte>> memory;
  for (const PlanInput& input : plan.inputs) {
    memory.emplace_back(input.padded_bytes);
    copy_padded(memory.back().data(), inputs[input.source].data, inputs[input.source].shape, input);
    views.push_back({input.dtype, input.padded, memory.back().data()});
  }
  auto prepared = std::make_unique<FakeInputs>(plan.bucket, std::move(views));
  prepared->memory = std::move(memory);
  return prepared;
}

Status FakeModel::plan(std::span<const TensorSignature> signature, Plan& plan) {
  ++plans_asked_;
  if (description_.planning.kind != KernelPlanning::kPlanned &&
      description_.planning.kind != KernelPlanning::kPartly) {
    return Status(StatusCode::kUnimplemented, description_.planning.reason);
  }
  Status status = make_plan(description_, signature, plan);
  if (status.ok() && change_plan_) change_plan_(plan);
  return status;
}

Result<std::unique_ptr<PreparedInputs>> FakeModel::wrap(std::size_t /*executor*/,
                                                        std::size_t bucket,
                                                        std::span<const ConstTensorView> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].shape != description_.buckets[bucket].inputs[i] ||
        inputs[i].dtype != description_.inputs[i].dtype ||
        reinterpret_cast<std::uintptr_t>(inputs[i].data) % 64 != 0) {
      return error(StatusCode::kInternal, "the fake backend was given something else to wrap");
    }
  }
  return std::make_unique<FakeInputs>(bucket,
                                      std::vector<ConstTensorView>(inputs.begin(), inputs.end()));
}

Result<std::unique_ptr<BoundStates>> FakeModel::bind_states(std::span<const TensorView> states) {
  return std::make_unique<FakeStates>(states);
}

Status FakeModel::execute(std::size_t executor, PreparedInputs& inputs, BoundStates* bound,
                          std::span<const TensorView> outputs, StateTraffic& traffic) {
  std::span<const TensorView> states;
  if (bound != nullptr) states = dynamic_cast<FakeStates&>(*bound).views;
  const auto views = dynamic_cast<FakeInputs&>(inputs).views();
  if (hook_ != nullptr) {
    if (Status status = hook_({executor, inputs.bucket(), views, states, outputs}); !status.ok()) {
      return status;
    }
  }
  for (std::size_t o = 0; o < outputs.size() && o < views.size(); ++o) {
    const std::uint64_t bytes = std::min(*outputs[o].shape.byte_size(outputs[o].dtype),
                                         *views[o].shape.byte_size(views[o].dtype));
    if (bytes > 0) std::memcpy(outputs[o].data, views[o].data, bytes);
  }
  for (const TensorView& state : states) {
    state.data[0] = static_cast<std::byte>(std::to_integer<int>(state.data[0]) + 1);
    ++traffic.bytes_written_back;
  }
  return Status();
}

Status FakeModel::initialise_states(std::span<const TensorView> states) {
  if (initialise_hook_ != nullptr) {
    if (Status status = initialise_hook_(); !status.ok()) return status;
  }
  for (std::size_t s = 0; s < states.size(); ++s) {
    std::memcpy(states[s].data, initial_states_[s].data(), initial_states_[s].size());
  }
  return Status();
}

void FakeBackend::prepare_executor_thread(std::size_t executor) {
  const std::lock_guard lock(mutex_);
  prepared_.insert(executor);
}

std::set<std::size_t> FakeBackend::prepared_executors() const {
  const std::lock_guard lock(mutex_);
  return prepared_;
}

Result<std::unique_ptr<BucketModel>> FakeBackend::load(int /*fd*/, const std::string& name) {
  return make_model_(name);
}

}  // namespace bucketd::testing
