#include "daemon/backends/torchscript/artifact_metadata.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/backends/torchscript/exact_value.h"
#include "daemon/backends/torchscript/metadata_json.h"

namespace bucketd::torchscript {
namespace {

constexpr std::int64_t kMaxIndex = 1 << 16;

// Every reader takes the document and fills its part of the model.

Result<PadSide> read_side(const JsonPlace& place) {
  const Result<std::string> text = place.text();
  if (!text) return error(text.error());
  if (*text == "right") return PadSide::kRight;
  if (*text == "left") return PadSide::kLeft;
  return place.bad("is neither 'right' nor 'left'");
}

Result<std::uint32_t> read_index(const JsonPlace& parent, const char* key, std::int64_t least = 0,
                                 std::int64_t most = kMaxIndex) {
  const Result<JsonPlace> place = parent.member(key);
  if (!place) return error(place.error());
  const Result<std::int64_t> value = place->integer(least, most);
  if (!value) return error(value.error());
  return static_cast<std::uint32_t>(*value);
}

Status read_text(const JsonPlace& parent, const char* key, std::string& out) {
  const Result<JsonPlace> place = parent.member(key);
  if (!place) return place.error();
  Result<std::string> text = place->text();
  if (!text) return text.error();
  out = std::move(*text);
  return Status();
}

Status read_dtype(const JsonPlace& parent, DType& out) {
  std::string name;
  if (Status status = read_text(parent, "dtype", name); !status.ok()) return status;
  const std::optional<DType> dtype = dtype_from_name(name);
  if (!dtype) return parent.bad("dtype '" + name.substr(0, 40) + "' is not known").value();
  out = *dtype;
  return Status();
}

Result<std::vector<JsonPlace>> read_list(const JsonPlace& parent, const char* key,
                                         std::size_t least, std::size_t most) {
  const Result<JsonPlace> place = parent.member(key);
  if (!place) return error(place.error());
  return place->elements(least, most);
}

Status read_header(const JsonPlace& document, ModelDescription& model) {
  std::string format;
  if (Status status = read_text(document, "format", format); !status.ok()) return status;
  if (format != "bucketd-artifact") {
    return document.bad("format is not 'bucketd-artifact'").value();
  }
  const Result<JsonPlace> version = document.member("version");
  if (!version) return version.error();
  if (!version->integer(1, 1)) {
    return version->bad("is not supported; this daemon reads version 1").value();
  }
  const Result<JsonPlace> sealed = document.member("sealed");
  if (!sealed) return sealed.error();
  const Result<bool> is_sealed = sealed->boolean();
  if (!is_sealed) return is_sealed.error();
  if (!*is_sealed) return sealed->bad("is false: only sealed artifacts are loaded").value();
  if (Status status = read_text(document, "name", model.name); !status.ok()) return status;
  if (document.has("producer")) {
    if (Status status = read_text(document, "producer", model.producer); !status.ok()) {
      return status;
    }
    constexpr std::size_t kMaxProducerBytes = 256;
    if (model.producer.size() > kMaxProducerBytes) {
      return document.bad("producer is longer than 256 bytes").value();
    }
  }
  const Result<JsonPlace> preprocessor = document.member("preprocessor");
  if (!preprocessor) return preprocessor.error();
  const Result<bool> has_preprocessor = preprocessor->boolean();
  if (!has_preprocessor) return has_preprocessor.error();
  model.has_preprocessor = *has_preprocessor;
  if (document.has("accepts")) {
    std::string accepts;
    if (Status status = read_text(document, "accepts", accepts); !status.ok()) return status;
    if (accepts != "declared" && accepts != "kernel") {
      return document.bad("accepts is neither 'declared' nor 'kernel'").value();
    }
    model.checks_inputs = accepts == "declared";
  }
  return Status();
}

Status read_specs(const JsonPlace& document, const char* key, std::size_t least,
                  std::vector<TensorSpec>& out) {
  const auto places = read_list(document, key, least, kMaxTensors);
  if (!places) return places.error();
  for (const JsonPlace& place : *places) {
    TensorSpec spec;
    if (Status status = read_text(place, "name", spec.name); !status.ok()) return status;
    if (Status status = read_dtype(place, spec.dtype); !status.ok()) return status;
    out.push_back(std::move(spec));
  }
  return Status();
}

Status read_states(const JsonPlace& document, ModelDescription& model) {
  const auto places = read_list(document, "states", 0, kMaxTensors);
  if (!places) return places.error();
  for (const JsonPlace& place : *places) {
    StateSpec spec;
    if (Status status = read_text(place, "name", spec.name); !status.ok()) return status;
    if (Status status = read_dtype(place, spec.dtype); !status.ok()) return status;
    const Result<JsonPlace> shape_place = place.member("shape");
    if (!shape_place) return shape_place.error();
    const Result<Shape> shape = shape_place->shape();
    if (!shape) return shape.error();
    spec.shape = *shape;
    if (place.has("sequence_dim")) {
      const Result<std::uint32_t> dim = read_index(place, "sequence_dim");
      if (!dim) return dim.error();
      spec.sequence_dim = *dim;
    }
    if (place.has("align")) {
      std::string align;
      if (Status status = read_text(place, "align", align); !status.ok()) return status;
      if (!spec.sequence_dim) return place.bad("has an align but no sequence_dim").value();
      if (align != "left" && align != "right") {
        return place.bad("align is neither 'left' nor 'right'").value();
      }
      spec.align = align == "right" ? PadSide::kLeft : PadSide::kRight;
    }
    model.states.push_back(std::move(spec));
  }
  const auto aliases = read_list(document, "aliases", 0, kMaxTensors);
  if (!aliases) return aliases.error();
  for (const JsonPlace& place : *aliases) {
    const Result<std::uint32_t> state = read_index(place, "state");
    if (!state) return state.error();
    const Result<std::uint32_t> output = read_index(place, "output");
    if (!output) return output.error();
    model.aliases.push_back({*state, *output});
  }
  return Status();
}

Status read_shapes(const JsonPlace& bucket, const char* key, std::size_t count,
                   std::vector<Shape>& out) {
  const auto places = read_list(bucket, key, count, count);
  if (!places) return places.error();
  for (const JsonPlace& place : *places) {
    const Result<Shape> shape = place.shape();
    if (!shape) return shape.error();
    out.push_back(*shape);
  }
  return Status();
}

Status read_buckets(const JsonPlace& document, ModelDescription& model) {
  const auto places = read_list(document, "buckets", 1, kMaxBuckets);
  if (!places) return places.error();
  for (const JsonPlace& place : *places) {
    BucketSpec bucket;
    if (Status status = read_shapes(place, "inputs", model.inputs.size(), bucket.inputs);
        !status.ok()) {
      return status;
    }
    if (Status status = read_shapes(place, "outputs", model.outputs.size(), bucket.outputs);
        !status.ok()) {
      return status;
    }
    if (Status status = read_shapes(place, "states", model.states.size(), bucket.states);
        !status.ok()) {
      return status;
    }
    for (std::size_t s = 0; s < model.states.size(); ++s) {
      const Shape& view = bucket.states[s];
      const Shape& whole = model.states[s].shape;
      const std::string where =
          "the view of state '" + model.states[s].name + "', " + view.to_string() + ", is ";
      if (!model.has_preprocessor && view != whole) {
        return place
            .bad(where + "not the whole state, " + whole.to_string() +
                 ", but there is no preprocessor that would slice it")
            .value();
      }
    }
    for (std::size_t i = 0; !model.buckets.empty() && i < model.inputs.size(); ++i) {
      if (bucket.inputs[i].rank() != model.buckets.front().inputs[i].rank()) {
        return place
            .bad("input '" + model.inputs[i].name + "' has rank " +
                 std::to_string(bucket.inputs[i].rank()) + " where bucket 0 has rank " +
                 std::to_string(model.buckets.front().inputs[i].rank()))
            .value();
      }
    }
    model.buckets.push_back(std::move(bucket));
  }
  return Status();
}

Status read_pad_kernel(const JsonPlace& kernel, ModelDescription& model) {
  const std::size_t count = model.inputs.size();
  const auto values = read_list(kernel, "value", count, count);
  if (!values) return values.error();
  const auto sides = read_list(kernel, "side", count, count);
  if (!sides) return sides.error();
  const auto dims = read_list(kernel, "dims", count, count);
  if (!dims) return dims.error();
  for (std::size_t i = 0; i < count; ++i) {
    const JsonPlace& place = (*values)[i];
    const nlohmann::json& json = place.value();
    if (!json.is_number() && !json.is_boolean()) {
      return place.bad("is not a number, true or false").value();
    }
    const std::optional<double> value = exact_value(json, model.inputs[i].dtype);
    if (!value) {
      return place
          .bad("input '" + model.inputs[i].name + "' of dtype " +
               std::string(dtype_name(model.inputs[i].dtype)) + " cannot hold it exactly")
          .value();
    }
    model.pad.value.push_back(*value);
    const Result<PadSide> side = read_side((*sides)[i]);
    if (!side) return side.error();
    model.pad.side.push_back(*side);
    const auto entries = (*dims)[i].elements(0, kMaxRank);
    if (!entries) return entries.error();
    std::vector<std::uint32_t> padded;
    for (const JsonPlace& entry : *entries) {
      const Result<std::int64_t> dim = entry.integer(0, kMaxRank - 1);
      if (!dim) return dim.error();
      const auto number = static_cast<std::uint32_t>(*dim);
      if (std::find(padded.begin(), padded.end(), number) != padded.end()) {
        return (*dims)[i].bad("names a dimension twice").value();
      }
      padded.push_back(number);
    }
    model.pad.dims.push_back(std::move(padded));
  }
  return Status();
}

Status read_kernel(const JsonPlace& document, ModelDescription& model) {
  const Result<JsonPlace> kernel = document.member("kernel");
  if (!kernel) return kernel.error();
  std::string type;
  if (Status status = read_text(*kernel, "type", type); !status.ok()) return status;
  if (type == "torchscript") {
    model.kernel = KernelKind::kTorchScript;
    return Status();
  }
  if (type != "pad") return kernel->bad("type is neither 'torchscript' nor 'pad'").value();
  model.kernel = KernelKind::kPad;
  return read_pad_kernel(*kernel, model);
}

// Fills model.accepted: the sizes of every input dimension, from the buckets and `dims`.
Status read_dims(const JsonPlace& document, ModelDescription& model) {
  const BucketSpec& first = model.buckets.front();
  std::vector<std::vector<bool>> differs;
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    std::vector<DimRange> ranges;
    std::vector<bool> input_differs;
    for (std::size_t d = 0; d < first.inputs[i].rank(); ++d) {
      DimRange range{std::numeric_limits<std::int64_t>::max(), 0};
      for (const BucketSpec& bucket : model.buckets) {
        range.min = std::min(range.min, bucket.inputs[i][d]);
        range.max = std::max(range.max, bucket.inputs[i][d]);
      }
      input_differs.push_back(range.min != range.max);
      range.min = range.max;
      ranges.push_back(range);
    }
    model.accepted.push_back(std::move(ranges));
    differs.push_back(std::move(input_differs));
  }
  const auto places = read_list(document, "dims", 0, kMaxTensors * kMaxRank);
  if (!places) return places.error();
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (const JsonPlace& place : *places) {
    const Result<std::uint32_t> input = read_index(place, "input");
    if (!input) return input.error();
    const Result<std::uint32_t> dim = read_index(place, "dim");
    if (!dim) return dim.error();
    if (*input >= model.inputs.size() || *dim >= first.inputs[*input].rank()) {
      return place.bad("names an input dimension that does not exist").value();
    }
    if (!seen.insert({*input, *dim}).second) {
      return place.bad("names an input dimension for the second time").value();
    }
    DimRange& range = model.accepted[*input][*dim];
    const Result<JsonPlace> least = place.member("min");
    if (!least) return least.error();
    const Result<std::int64_t> min = least->integer(0, range.max);
    if (!min) return min.error();
    range.min = *min;
  }
  for (std::size_t i = 0; i < differs.size(); ++i) {
    for (std::size_t d = 0; d < differs[i].size(); ++d) {
      if (differs[i][d] &&
          !seen.contains({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(d)})) {
        return document
            .bad("dims has no entry for dimension " + std::to_string(d) + " of input '" +
                 model.inputs[i].name + "', whose size differs between the buckets")
            .value();
      }
    }
  }
  return Status();
}

Status read_crop(const JsonPlace& document, ModelDescription& model) {
  const auto places = read_list(document, "crop", 0, kMaxTensors * kMaxRank);
  if (!places) return places.error();
  for (const JsonPlace& place : *places) {
    CropRule rule;
    constexpr std::int64_t kMaxRatio = std::numeric_limits<std::int32_t>::max();
    const std::pair<const char*, std::uint32_t*> fields[] = {
        {"output", &rule.output},       {"dim", &rule.dim},
        {"input", &rule.input},         {"input_dim", &rule.input_dim},
        {"numerator", &rule.numerator}, {"denominator", &rule.denominator}};
    for (const auto& [key, out] : fields) {
      const Result<std::uint32_t> number = read_index(place, key, 0, kMaxRatio);
      if (!number) return number.error();
      *out = *number;
    }
    const Result<JsonPlace> side_place = place.member("side");
    if (!side_place) return side_place.error();
    const Result<PadSide> side = read_side(*side_place);
    if (!side) return side.error();
    rule.side = *side;
    model.crop.push_back(rule);
  }
  return Status();
}

// Bytes of one bucket's inputs and outputs, and of the states; sizes were validated.
Status check_bytes(const ModelDescription& model, std::uint64_t limit_bytes) {
  const std::optional<std::uint64_t> inputs = largest_input_bytes(model);
  const std::optional<std::uint64_t> outputs = largest_output_bytes(model);
  std::uint64_t total = 0;
  bool overflows = !inputs || !outputs || __builtin_add_overflow(*inputs, *outputs, &total);
  for (const StateSpec& state : model.states) {
    const std::optional<std::uint64_t> bytes = state.shape.byte_size(state.dtype);
    overflows = overflows || !bytes || __builtin_add_overflow(total, *bytes, &total);
  }
  if (overflows || total > limit_bytes) {
    return Status(StatusCode::kResourceExhausted,
                  "model '" + model.name +
                      "': its states and its largest inputs and outputs have " +
                      (overflows ? "more than 2^64" : std::to_string(total)) + " bytes; at most " +
                      std::to_string(limit_bytes) + " are allowed");
  }
  return Status();
}

}  // namespace

Result<ModelDescription> parse_metadata(std::string_view json, std::uint64_t limit_bytes) {
  if (json.size() > kMaxMetadataBytes) {
    return error(StatusCode::kResourceExhausted,
                 "metadata: " + std::to_string(json.size()) + " bytes; at most " +
                     std::to_string(kMaxMetadataBytes) + " are read");
  }
  nlohmann::json parsed;
  if (Status status = parse_json(json, parsed); !status.ok()) return error(std::move(status));
  const JsonPlace document(parsed);

  ModelDescription model;
  model.backend = "torchscript";
  if (Status status = read_header(document, model); !status.ok()) return error(std::move(status));
  if (Status status = read_specs(document, "inputs", 1, model.inputs); !status.ok()) {
    return error(std::move(status));
  }
  if (Status status = read_specs(document, "outputs", 0, model.outputs); !status.ok()) {
    return error(std::move(status));
  }
  for (const auto reader : {&read_states, &read_buckets, &read_kernel, &read_dims, &read_crop}) {
    if (Status status = reader(document, model); !status.ok()) return error(std::move(status));
  }
  if (Status status = validate(model); !status.ok()) return error(std::move(status));
  if (Status status = check_bytes(model, limit_bytes); !status.ok()) {
    return error(std::move(status));
  }
  return model;
}

}  // namespace bucketd::torchscript
