#include "daemon/plans/plan.h"

#include <algorithm>
#include <string>

#include "common/channel_layout.h"
#include "daemon/plans/exact_bits.h"

namespace bucketd {
namespace {

std::string input_text(const ModelDescription& model, std::size_t input) {
  return "model '" + model.name + "', input " + std::to_string(input) + " '" +
         model.inputs[input].name + "'";
}

bool is_padded(const PadKernelSpec& pad, std::size_t input, std::size_t dim) {
  const std::vector<std::uint32_t>& dims = pad.dims[input];
  return std::find(dims.begin(), dims.end(), dim) != dims.end();
}

bool takes(const ModelDescription& model, const BucketSpec& bucket,
           std::span<const TensorSignature> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t d = 0; d < inputs[i].shape.rank(); ++d) {
      const std::int64_t size = inputs[i].shape[d];
      const std::int64_t limit = bucket.inputs[i][d];
      if (is_padded(model.pad, i, d) ? size > limit : size != limit) return false;
    }
  }
  return true;
}

// Why no bucket takes inputs that have the right dtypes and ranks.
Status no_bucket(const ModelDescription& model, std::span<const TensorSignature> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t d = 0; d < inputs[i].shape.rank(); ++d) {
      const std::int64_t size = inputs[i].shape[d];
      std::int64_t largest = 0;
      bool occurs = false;
      for (const BucketSpec& bucket : model.buckets) {
        largest = std::max(largest, bucket.inputs[i][d]);
        occurs = occurs || bucket.inputs[i][d] == size;
      }
      const std::string where = input_text(model, i) + ", dimension " + std::to_string(d) +
                                ": size " + std::to_string(size);
      if (size > largest) {
        return Status(StatusCode::kOutOfRange,
                      where + " is above the largest bucket's " + std::to_string(largest));
      }
      if (!is_padded(model.pad, i, d) && !occurs) {
        return Status(StatusCode::kInvalidArgument,
                      where + " is no bucket's size, and the kernel does not pad this dimension");
      }
    }
  }
  std::string shapes;
  for (const TensorSignature& input : inputs) {
    shapes += (shapes.empty() ? "" : ", ") + input.shape.to_string();
  }
  return Status(StatusCode::kOutOfRange,
                "model '" + model.name + "': none of its " + std::to_string(model.buckets.size()) +
                    " buckets takes inputs of shapes " + shapes + " together");
}

}  // namespace

Status make_plan(const ModelDescription& model, std::span<const TensorSignature> inputs,
                 Plan& plan) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    // check_inputs() leaves these to the kernel when the model accepts what its kernel accepts.
    const std::size_t rank = model.buckets.front().inputs[i].rank();
    if (inputs[i].dtype != model.inputs[i].dtype) {
      return Status(StatusCode::kInvalidArgument,
                    input_text(model, i) + ": dtype " + std::string(dtype_name(inputs[i].dtype)) +
                        " where " + std::string(dtype_name(model.inputs[i].dtype)) +
                        " is expected");
    }
    if (inputs[i].shape.rank() != rank) {
      return Status(StatusCode::kInvalidArgument,
                    input_text(model, i) + ": rank " + std::to_string(inputs[i].shape.rank()) +
                        " where rank " + std::to_string(rank) + " is expected");
    }
  }
  const auto bucket =
      std::find_if(model.buckets.begin(), model.buckets.end(),
                   [&](const BucketSpec& spec) { return takes(model, spec, inputs); });
  if (bucket == model.buckets.end()) return no_bucket(model, inputs);

  plan.id = 0;
  plan.bucket = static_cast<std::uint32_t>(bucket - model.buckets.begin());
  plan.signature.assign(inputs.begin(), inputs.end());
  plan.inputs.resize(inputs.size());
  plan.private_bytes = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    PlanInput& input = plan.inputs[i];
    const std::optional<std::uint64_t> bits = exact_bits(inputs[i].dtype, model.pad.value[i]);
    if (!bits) {
      return Status(StatusCode::kInternal, input_text(model, i) + ": the kernel's fill value " +
                                               std::to_string(model.pad.value[i]) + " is no " +
                                               std::string(dtype_name(inputs[i].dtype)));
    }
    input.source = static_cast<std::uint16_t>(i);
    input.dtype = inputs[i].dtype;
    input.padded = bucket->inputs[i];
    input.fill_bits = *bits;
    input.pad_before = {};
    if (model.pad.side[i] == PadSide::kLeft) {
      for (std::size_t d = 0; d < input.padded.rank(); ++d) {
        input.pad_before[d] = input.padded[d] - inputs[i].shape[d];
      }
    }
    // A validated description's buckets do not overflow, one by one; their sum may.
    const std::optional<std::uint64_t> bytes = input.padded.byte_size(input.dtype);
    const std::optional<std::uint64_t> aligned =
        bytes ? align_up(*bytes, kTensorAlignment) : std::nullopt;
    input.offset = plan.private_bytes;
    if (!aligned || __builtin_add_overflow(plan.private_bytes, *aligned, &plan.private_bytes)) {
      return Status(StatusCode::kInternal, "model '" + model.name + "': the sizes of bucket " +
                                               std::to_string(plan.bucket) + " overflow");
    }
    input.padded_bytes = *bytes;
  }
  return Status();
}

}  // namespace bucketd
