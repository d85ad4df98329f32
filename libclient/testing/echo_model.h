// The model that the fake daemon serves: its outputs are its inputs, padded to the bucket.
//
//   inputs   ids int64 [1, n] padded at the right with 7; scores float32 [1, n] at the left with -1
//   buckets  n <= 8, n <= 16
//   outputs  the padded ids and scores, cropped to n on the same sides
//
// Thread safety: functions of their arguments only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bucketd/model_description.h"
#include "common/channel_layout.h"

namespace bucketd::testing {

inline constexpr std::int64_t kSmallBucket = 8;
inline constexpr std::int64_t kLargeBucket = 16;
inline constexpr std::int64_t kIdFill = 7;
inline constexpr float kScoreFill = -1.0F;

ModelDescription echo_model(const std::string& name = "echo");

// A submission, copied: what lay in the input slot starts with the descriptors.
struct Submission {
  SubmissionEntry entry{};
  std::vector<std::byte> slot;
};

// What an output slot would hold, and the entry that announces it.
struct Answer {
  CompletionEntry entry{};
  std::vector<std::byte> slot;
};

// The answer of the echo model, with the plan `plan_id` of the request's signature if it is raw and
// `plan_id` is not 0. Aborts on a submission that is not what a sound client sends.
Answer echo(const ModelDescription& model, const Submission& submission, std::uint32_t plan_id);

// The answer that it was not run.
Answer refusal(const Submission& submission, const Status& status);

// The sizes of the submission's inputs: plans are per these.
std::vector<TensorSignature> signature_of(const Submission& submission);

}  // namespace bucketd::testing
