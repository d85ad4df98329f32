// RequestRunner: one executor's way of running a request, from the checks to the answer.
//
// Thread safety: none; one for each executor. Holds the private memory that inputs are copied to,
// reused from request to request: it grows to the largest request that this executor has seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/worker/private_buffer.h"
#include "daemon/worker/scheduler.h"
#include "daemon/worker/status_page.h"
#include "daemon/worker/submission.h"

namespace bucketd {

class RequestRunner {
 public:
  // `status` outlives this.
  RequestRunner(std::size_t executor, const StatusPage& status)
      : executor_(executor), status_(status) {}

  // Answers the job's request exactly once.
  void run(const Job& job);

 private:
  // Runs it; on success `completion` and the output area are filled and the bytes used in the
  // latter are returned.
  Result<std::uint64_t> execute(const Job& job, CompletionEntry& completion);
  Status read_inputs(Lane& lane, const SubmissionEntry& entry);
  Status check_session(const Job& job) const;
  // Inputs in the bucket's form. `plan`: null if the kernel was run; may be scratch_plan_.
  Result<std::unique_ptr<PreparedInputs>> prepare(Lane& lane, const SubmissionEntry& entry,
                                                  const Plan*& plan);
  Result<const Plan*> find_plan(Lane& lane);
  // Of a kernel that its author wrote; null when it has none for these inputs.
  Result<const Plan*> find_authors_plan(Lane& lane);
  Status copy_inputs(Lane& lane, std::uint32_t slot, const Plan* plan, bool pad);
  // Destinations of bucket `bucket`'s outputs in `output`; returns the bytes used.
  std::uint64_t place_outputs(const ModelDescription& model, std::size_t bucket,
                              std::span<std::byte> output);
  void describe_outputs(const ModelDescription& model, std::size_t bucket, const Plan* plan,
                        std::uint64_t output_bytes, std::span<std::byte> output) const;

  const std::size_t executor_;
  const StatusPage& status_;
  std::vector<InputDescriptor> descriptors_;  // private copies
  SubmittedInputs inputs_;
  Plan scratch_plan_;  // of a signature that the lane's cache has no room for
  PrivateBuffer memory_;
  std::vector<const std::byte*> sources_;
  std::vector<ConstTensorView> views_;
  std::vector<TensorView> outputs_;
};

}  // namespace bucketd
