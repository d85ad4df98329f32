// Backend: how a worker loads and runs bucket models, whatever executes them.
//
// The worker depends on this header only; a backend includes neither the worker nor the supervisor.
// No type of LibTorch or libnrt appears here, so that those libraries (which may have another C++
// ABI) stay behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "daemon/plans/plan.h"

namespace bucketd {

// A contiguous tensor in host memory. Does not own.
struct TensorView {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::byte* data = nullptr;  // 64-byte aligned; may be null when the tensor has no elements
};

struct ConstTensorView {
  DType dtype = DType::kFloat32;
  Shape shape;
  const std::byte* data = nullptr;
};

// Inputs in the form that a bucket takes. Made by BucketModel, used once. Holds the memory it made
// itself; views given to BucketModel::wrap must outlive it.
class PreparedInputs {
 public:
  virtual ~PreparedInputs() = default;
  virtual std::size_t bucket() const = 0;
};

// The states of one session as the buckets of its model take them: views of its memory, made when
// a bucket first needs them and kept. Made by BucketModel::bind_states.
//
// Thread safety: one request or operation of a session runs at a time; so one thread at a time.
class BoundStates {
 public:
  virtual ~BoundStates() = default;
};

// What execute() moved of states: nothing, where slices are views and buckets write in place.
struct StateTraffic {
  std::uint64_t bytes_copied = 0;        // into buckets, because a slice is no view
  std::uint64_t bytes_written_back = 0;  // of aliased outputs, into the views
};

// A loaded bucket model on one worker.
//
// Thread safety: run_kernel, wrap and execute may be called from all executor threads at once, but
// never twice at once with the same `executor`. Errors name the model, and for kernels what they
// gave and what the bucket expects; never a library's stack trace.
class BucketModel {
 public:
  virtual ~BucketModel() = default;

  // Validated, with state_views of every bucket and `planning`. Constant over the model's life.
  virtual const ModelDescription& description() const = 0;

  // Runs the bucket kernel as the author wrote it, on inputs as the caller has them (checked by
  // check_inputs() before). The views must stay valid and unchanged until the PreparedInputs are
  // gone: the caller copies what a client could still write.
  // Errors: OUT_OF_RANGE when the kernel finds no bucket (an empty list), INTERNAL when its result
  // does not fit the bucket it names, INVALID_ARGUMENT when it raises.
  virtual Result<std::unique_ptr<PreparedInputs>> run_kernel(
      std::size_t executor, std::span<const ConstTensorView> inputs) = 0;

  // What the kernel does to inputs of this signature (checked by check_inputs() before), whatever
  // their elements are. `plan` is overwritten. May take as long as several runs of the kernel: for
  // callers that keep the plan. From any thread.
  // Errors: UNIMPLEMENTED naming the operator that prevents a plan; any other code when the kernel
  // refuses such inputs or gives what fits no bucket. All mean: run the kernel, it says so itself.
  virtual Status plan(std::span<const TensorSignature> signature, Plan& plan) = 0;

  // Takes inputs that have the bucket's shapes and dtypes already (asserted). No copy.
  virtual Result<std::unique_ptr<PreparedInputs>> wrap(std::size_t executor, std::size_t bucket,
                                                       std::span<const ConstTensorView> inputs) = 0;

  // `states`: the session's full buffers, in the order of description().states; they outlive the
  // result. From any thread.
  virtual Result<std::unique_ptr<BoundStates>> bind_states(std::span<const TensorView> states) = 0;

  // Runs the bucket. `states`: of this model, sliced for the bucket by the model's preprocessor and
  // updated in place; null if the model has none. `outputs`: destinations of the bucket's output
  // shapes, in the order of description().outputs. `traffic` is added to.
  // Errors: INTERNAL when the bucket raises or gives something else than described. States that
  // aliased outputs update are then as before; those that the bucket writes in place may be half
  // written.
  virtual Status execute(std::size_t executor, PreparedInputs& inputs, BoundStates* states,
                         std::span<const TensorView> outputs, StateTraffic& traffic) = 0;

  // Writes the artifact's initial values into `states` (full buffers).
  virtual Status initialise_states(std::span<const TensorView> states) = 0;

  // What initialise_states() writes into that state: as many bytes as its full buffer has. Constant
  // over the model's life.
  virtual const std::byte* initial_state(std::size_t state) const = 0;

  // Bytes of weights and constants that the model holds.
  virtual std::uint64_t resident_bytes() const = 0;
};

struct BackendOptions {
  std::uint32_t core_count = 1;                 // executor threads that will call
  std::uint32_t threads_per_core = 1;           // LibTorch and BLAS threads for each of them
  std::vector<std::string> operator_libraries;  // loaded before the first artifact
  // Most bytes of one model's states and of its largest bucket's inputs and outputs together: an
  // artifact that asks for more is refused. 0: half of the machine's memory.
  std::uint64_t model_bytes_limit = 0;
};

// Thread safety: load() is called from one thread at a time, while models execute on others.
class Backend {
 public:
  virtual ~Backend() = default;

  // Library and what its speed depends on: "torchscript 1.13.0, OpenBLAS 0.3.21".
  virtual std::string version() const = 0;

  // To be called once by every executor thread before it executes anything: bounds its threads.
  virtual void prepare_executor_thread(std::size_t executor) = 0;

  // Loads the artifact behind `fd` (read with pread, not closed), checks the seal and metadata,
  // validates the kernel at each bucket's exact shape and one beyond, and runs every bucket once
  // (warm-up). `name` replaces the artifact's own name when it is not empty.
  // Errors: INVALID_ARGUMENT or DATA_LOSS with the reason; the backend is as before.
  virtual Result<std::unique_ptr<BucketModel>> load(int fd, const std::string& name) = 0;
};

// daemon/backends/torchscript.
Result<std::unique_ptr<Backend>> make_torchscript_backend(const BackendOptions& options);

}  // namespace bucketd
