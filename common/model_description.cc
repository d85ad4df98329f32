#include "bucketd/model_description.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "common/channel_layout.h"

namespace bucketd {
namespace {

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::string model_text(const ModelDescription& model) { return "model " + quoted(model.name); }

std::string input_text(const ModelDescription& model, std::size_t input) {
  return model_text(model) + ", input " + std::to_string(input) + " " +
         quoted(model.inputs[input].name);
}

tl::unexpected<Status> bad(const ModelDescription& model, const std::string& what) {
  return error(StatusCode::kInvalidArgument, model_text(model) + ": " + what);
}

bool is_name(std::string_view name) {
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

template <typename Spec>
Result<void> validate_specs(const ModelDescription& model, const std::vector<Spec>& specs,
                            std::string_view kind) {
  if (specs.size() > kMaxTensors) {
    return bad(model, "has " + std::to_string(specs.size()) + " " + std::string(kind) +
                          "s; at most " + std::to_string(kMaxTensors) + " are possible");
  }
  std::set<std::string_view> seen;
  for (const Spec& spec : specs) {
    if (!is_name(spec.name)) {
      return bad(model, std::string(kind) + " name " + quoted(spec.name.substr(0, 80)) +
                            " is not 1 to 64 characters of [A-Za-z0-9_.-]");
    }
    if (!seen.insert(spec.name).second) {
      return bad(model, "two " + std::string(kind) + "s are named " + quoted(spec.name));
    }
    if (!is_known_dtype(static_cast<std::uint8_t>(spec.dtype))) {
      return bad(model, std::string(kind) + " " + quoted(spec.name) + " has no known dtype");
    }
  }
  return {};
}

Result<void> validate_buckets(const ModelDescription& model) {
  if (model.buckets.empty() || model.buckets.size() > kMaxBuckets) {
    return bad(model, "has " + std::to_string(model.buckets.size()) + " buckets; 1 to " +
                          std::to_string(kMaxBuckets) + " are possible");
  }
  if (!model.input_uses.empty() && model.input_uses.size() != model.inputs.size()) {
    return bad(model, "does not say of each input whether it is copied");
  }
  const BucketSpec& first = model.buckets.front();
  for (std::size_t b = 0; b < model.buckets.size(); ++b) {
    const BucketSpec& bucket = model.buckets[b];
    const std::string where = "bucket " + std::to_string(b);
    if (bucket.inputs.size() != model.inputs.size() ||
        bucket.outputs.size() != model.outputs.size() ||
        bucket.states.size() != model.states.size()) {
      return bad(model, where + " does not give one shape for each input, output and state");
    }
    if (!bucket.state_views.empty() && bucket.state_views.size() != model.states.size()) {
      return bad(model, where + " does not tell of each state how the bucket gets it");
    }
    for (std::size_t i = 0; i < bucket.inputs.size(); ++i) {
      if (!bucket.inputs[i].byte_size(model.inputs[i].dtype)) {
        return bad(model, where + ", input " + std::to_string(i) + ": size overflows");
      }
      if (bucket.inputs[i].rank() != first.inputs[i].rank()) {
        return bad(model, where + ", input " + std::to_string(i) + ": rank " +
                              std::to_string(bucket.inputs[i].rank()) + " where bucket 0 has " +
                              std::to_string(first.inputs[i].rank()));
      }
    }
    for (std::size_t o = 0; o < bucket.outputs.size(); ++o) {
      if (!bucket.outputs[o].byte_size(model.outputs[o].dtype)) {
        return bad(model, where + ", output " + std::to_string(o) + ": size overflows");
      }
      if (bucket.outputs[o].rank() != first.outputs[o].rank()) {
        return bad(model, where + ", output " + std::to_string(o) + ": rank " +
                              std::to_string(bucket.outputs[o].rank()) + " where bucket 0 has " +
                              std::to_string(first.outputs[o].rank()));
      }
    }
    for (std::size_t s = 0; s < bucket.states.size(); ++s) {
      if (!bucket.states[s].byte_size(model.states[s].dtype)) {
        return bad(model, where + ", state " + std::to_string(s) + ": size overflows");
      }
    }
  }
  return {};
}

Result<void> validate_states(const ModelDescription& model) {
  for (const StateSpec& state : model.states) {
    if (!state.shape.byte_size(state.dtype)) {
      return bad(model, "state " + quoted(state.name) + ": size overflows");
    }
    if (state.sequence_dim && *state.sequence_dim >= state.shape.rank()) {
      return bad(model, "state " + quoted(state.name) + ": sequence_dim " +
                            std::to_string(*state.sequence_dim) + " of a tensor of rank " +
                            std::to_string(state.shape.rank()));
    }
  }
  std::set<std::uint32_t> states;
  std::set<std::uint32_t> outputs;
  for (const AliasSpec& alias : model.aliases) {
    if (alias.state >= model.states.size()) {
      return bad(model, "an alias names state " + std::to_string(alias.state) + " of " +
                            std::to_string(model.states.size()));
    }
    if (alias.output < model.outputs.size() ||
        alias.output >= model.outputs.size() + model.aliases.size()) {
      return bad(model, "an alias names output " + std::to_string(alias.output) +
                            "; aliased outputs are " + std::to_string(model.outputs.size()) +
                            " to " +
                            std::to_string(model.outputs.size() + model.aliases.size() - 1));
    }
    if (!states.insert(alias.state).second || !outputs.insert(alias.output).second) {
      return bad(model, "two aliases name the same state or output");
    }
  }
  return {};
}

Result<void> validate_crop(const ModelDescription& model) {
  const BucketSpec& first = model.buckets.front();
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (const CropRule& rule : model.crop) {
    if (rule.output >= model.outputs.size() || rule.dim >= first.outputs[rule.output].rank() ||
        rule.input >= model.inputs.size() || rule.input_dim >= first.inputs[rule.input].rank()) {
      return bad(model, "a crop rule names a tensor or dimension that does not exist");
    }
    if (!seen.insert({rule.output, rule.dim}).second) {
      return bad(model, "two crop rules name dimension " + std::to_string(rule.dim) +
                            " of output " + std::to_string(rule.output));
    }
    constexpr std::uint32_t kMaxRatio = 1u << 16;
    if (rule.numerator == 0 || rule.denominator == 0 || rule.numerator > kMaxRatio ||
        rule.denominator > kMaxRatio) {
      return bad(model, "a crop rule has a ratio outside 1/65536 to 65536");
    }
    for (const BucketSpec& bucket : model.buckets) {
      const auto out = static_cast<__int128>(bucket.outputs[rule.output][rule.dim]);
      const auto in = static_cast<__int128>(bucket.inputs[rule.input][rule.input_dim]);
      if (out * rule.denominator != in * rule.numerator) {
        return bad(model, "the crop rule of output " + std::to_string(rule.output) +
                              " does not hold for the sizes of every bucket");
      }
    }
  }
  return {};
}

Result<void> validate_kernel(const ModelDescription& model) {
  if (model.accepted.size() != model.inputs.size()) {
    return bad(model, "does not give accepted sizes for each input");
  }
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    const std::size_t rank = model.buckets.front().inputs[i].rank();
    if (model.accepted[i].size() != rank) {
      return bad(model, "input " + std::to_string(i) + ": not one accepted range a dimension");
    }
    for (const DimRange& range : model.accepted[i]) {
      if (range.min < 0 || range.min > range.max) {
        return bad(model, "input " + std::to_string(i) + ": accepted sizes " +
                              std::to_string(range.min) + " to " + std::to_string(range.max));
      }
    }
  }
  if (model.kernel != KernelKind::kPad) return {};
  const PadKernelSpec& pad = model.pad;
  if (pad.dims.size() != model.inputs.size() || pad.value.size() != model.inputs.size() ||
      pad.side.size() != model.inputs.size()) {
    return bad(model, "the pad kernel does not give dims, value and side for each input");
  }
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    for (const std::uint32_t dim : pad.dims[i]) {
      if (dim >= model.buckets.front().inputs[i].rank()) {
        return bad(model, "the pad kernel names dimension " + std::to_string(dim) + " of input " +
                              std::to_string(i) + ", which has rank " +
                              std::to_string(model.buckets.front().inputs[i].rank()));
      }
    }
  }
  return {};
}

std::optional<std::uint64_t> aligned_bytes(const std::vector<Shape>& shapes,
                                           const std::vector<TensorSpec>& specs) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::optional<std::uint64_t> bytes = shapes[i].byte_size(specs[i].dtype);
    if (!bytes) return std::nullopt;
    const std::optional<std::uint64_t> aligned = align_up(*bytes, kTensorAlignment);
    if (!aligned || __builtin_add_overflow(total, *aligned, &total)) return std::nullopt;
  }
  return total;
}

}  // namespace

Status validate(const ModelDescription& model) {
  if (!is_name(model.name)) {
    return Status(StatusCode::kInvalidArgument, "model name " + quoted(model.name.substr(0, 80)) +
                                                    " is not 1 to 64 characters of [A-Za-z0-9_.-]");
  }
  for (const Result<void>& result :
       {validate_specs(model, model.inputs, "input"),
        validate_specs(model, model.outputs, "output"),
        validate_specs(model, model.states, "state"), validate_buckets(model)}) {
    if (!result) return result.error();
  }
  for (const Result<void>& result :
       {validate_states(model), validate_crop(model), validate_kernel(model)}) {
    if (!result) return result.error();
  }
  return Status();
}

std::optional<std::uint64_t> largest_input_bytes(const ModelDescription& model) {
  std::uint64_t largest = 0;
  for (const BucketSpec& bucket : model.buckets) {
    const std::optional<std::uint64_t> bytes = aligned_bytes(bucket.inputs, model.inputs);
    if (!bytes) return std::nullopt;
    largest = std::max(largest, *bytes);
  }
  return largest;
}

std::optional<std::uint64_t> largest_output_bytes(const ModelDescription& model) {
  std::uint64_t largest = 0;
  for (const BucketSpec& bucket : model.buckets) {
    const std::optional<std::uint64_t> bytes = aligned_bytes(bucket.outputs, model.outputs);
    if (!bytes) return std::nullopt;
    largest = std::max(largest, *bytes);
  }
  return largest;
}

Status check_inputs(const ModelDescription& model, std::span<const TensorSignature> inputs) {
  if (inputs.size() != model.inputs.size()) {
    return Status(StatusCode::kInvalidArgument,
                  model_text(model) + " takes " + std::to_string(model.inputs.size()) +
                      " inputs, the request has " + std::to_string(inputs.size()));
  }
  if (!model.checks_inputs) return Status();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TensorSignature& input = inputs[i];
    if (input.dtype != model.inputs[i].dtype) {
      return Status(StatusCode::kInvalidArgument,
                    input_text(model, i) + ": dtype " + std::string(dtype_name(input.dtype)) +
                        " where " + std::string(dtype_name(model.inputs[i].dtype)) +
                        " is expected");
    }
    const std::vector<DimRange>& accepted = model.accepted[i];
    if (input.shape.rank() != accepted.size()) {
      return Status(StatusCode::kInvalidArgument,
                    input_text(model, i) + ": rank " + std::to_string(input.shape.rank()) +
                        " where rank " + std::to_string(accepted.size()) + " is expected");
    }
    for (std::size_t d = 0; d < accepted.size(); ++d) {
      const std::int64_t size = input.shape[d];
      // Built for an error only: a request that fits allocates nothing here.
      const auto where = [&] {
        return input_text(model, i) + ", dimension " + std::to_string(d) + ": size " +
               std::to_string(size);
      };
      if (accepted[d].min == accepted[d].max && size != accepted[d].max) {
        return Status(StatusCode::kInvalidArgument,
                      where() + " where " + std::to_string(accepted[d].max) + " is expected");
      }
      if (size > accepted[d].max) {
        return Status(StatusCode::kOutOfRange, where() + " is above the largest bucket's " +
                                                   std::to_string(accepted[d].max));
      }
      if (size < accepted[d].min) {
        return Status(StatusCode::kInvalidArgument, where() + " is below the least accepted, " +
                                                        std::to_string(accepted[d].min) +
                                                        (size == 0 ? " (the input is empty)" : ""));
      }
    }
  }
  return Status();
}

CroppedShape crop_output(const ModelDescription& model, std::size_t bucket, std::size_t output,
                         std::span<const TensorSignature> inputs) {
  CroppedShape cropped{model.buckets[bucket].outputs[output], {}};
  for (const CropRule& rule : model.crop) {
    if (rule.output != output || rule.input >= inputs.size()) continue;
    const Shape& input = inputs[rule.input].shape;
    if (rule.input_dim >= input.rank()) continue;
    const std::int64_t full = cropped.shape[rule.dim];
    const __int128 scaled = static_cast<__int128>(input[rule.input_dim]) * rule.numerator;
    const __int128 wanted = (scaled + rule.denominator - 1) / rule.denominator;
    const std::int64_t kept = wanted < full ? static_cast<std::int64_t>(wanted) : full;
    cropped.shape[rule.dim] = kept;
    cropped.start[rule.dim] = rule.side == PadSide::kLeft ? full - kept : 0;
  }
  return cropped;
}

}  // namespace bucketd
