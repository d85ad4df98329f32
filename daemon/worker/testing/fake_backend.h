// FakeBackend: a backend whose models do what a test tells them.
//
// By default a model's bucket copies input i to output i, as many bytes as both have, and adds one
// to the first byte of each state, which counts as one byte written back. A hook sees every
// execution on the executor's thread.
//
// Thread safety: as the Backend interface asks; hooks are set before requests come.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/plans/testing/pad_model.h"

namespace bucketd::testing {

class FakeModel : public BucketModel {
 public:
  struct Execution {
    std::size_t executor = 0;
    std::size_t bucket = 0;
    std::span<const ConstTensorView> inputs;
    std::span<const TensorView> states;
    std::span<const TensorView> outputs;
  };
  using Hook = std::function<Status(const Execution&)>;

  // `initialise_hook` is called before states are initialised, on whatever thread does that.
  explicit FakeModel(ModelDescription description, Hook hook = nullptr,
                     std::function<Status()> initialise_hook = nullptr);

  const ModelDescription& description() const override { return description_; }
  Result<std::unique_ptr<PreparedInputs>> run_kernel(
      std::size_t executor, std::span<const ConstTensorView> inputs) override;
  // As run_kernel does, if the description says that the kernel is planned.
  Status plan(std::span<const TensorSignature> signature, Plan& plan) override;
  Result<std::unique_ptr<PreparedInputs>> wrap(std::size_t executor, std::size_t bucket,
                                               std::span<const ConstTensorView> inputs) override;
  Result<std::unique_ptr<BoundStates>> bind_states(std::span<const TensorView> states) override;
  Status execute(std::size_t executor, PreparedInputs& inputs, BoundStates* states,
                 std::span<const TensorView> outputs, StateTraffic& traffic) override;
  Status initialise_states(std::span<const TensorView> states) override;
  const std::byte* initial_state(std::size_t state) const override {
    return initial_states_[state].data();
  }
  std::uint64_t resident_bytes() const override { return 4096; }

  // To be called on every plan that is made; set before requests come.
  void change_plans(std::function<void(Plan&)> change) { change_plan_ = std::move(change); }

  // How often plan() and run_kernel() were called.
  int plans_asked() const { return plans_asked_; }
  int kernels_run() const { return kernels_run_; }

 private:
  const ModelDescription description_;
  const Hook hook_;
  const std::function<Status()> initialise_hook_;
  std::function<void(Plan&)> change_plan_;
  std::atomic<int> plans_asked_{0};
  std::atomic<int> kernels_run_{0};
  std::vector<std::vector<std::byte>> initial_states_;  // 100, then zeros; constant
};

class FakeBackend : public Backend {
 public:
  using MakeModel = std::function<Result<std::unique_ptr<BucketModel>>(const std::string& name)>;

  // `make_model` answers load(); the descriptor is not read.
  explicit FakeBackend(MakeModel make_model) : make_model_(std::move(make_model)) {}

  std::string version() const override { return "fake 1"; }
  void prepare_executor_thread(std::size_t executor) override;
  Result<std::unique_ptr<BucketModel>> load(int fd, const std::string& name) override;

  std::set<std::size_t> prepared_executors() const;

 private:
  const MakeModel make_model_;
  mutable std::mutex mutex_;
  std::set<std::size_t> prepared_;
};

}  // namespace bucketd::testing
