#include "daemon/backends/torchscript/load_validation.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/tensors.h"
#include "daemon/plans/padding.h"
#include "daemon/plans/plan.h"

namespace bucketd::torchscript {
namespace {

bool varies(const ModelDescription& model, std::size_t input, std::size_t dim) {
  const DimRange& range = model.accepted[input][dim];
  return range.min != range.max ||
         std::any_of(model.buckets.begin(), model.buckets.end(), [&](const BucketSpec& bucket) {
           return bucket.inputs[input][dim] != model.buckets.front().inputs[input][dim];
         });
}

bool holds(const BucketSpec& bucket, const std::vector<Shape>& inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t d = 0; d < inputs[i].rank(); ++d) {
      if (bucket.inputs[i][d] < inputs[i][d]) return false;
    }
  }
  return true;
}

// Whether all sizes that vary are one size in every bucket, as a sequence length is: then any
// value of it is a sensible request.
bool varies_as_one(const ModelDescription& model) {
  return std::all_of(model.buckets.begin(), model.buckets.end(),
                     [&model](const BucketSpec& bucket) {
                       std::set<std::int64_t> sizes;
                       for (std::size_t i = 0; i < bucket.inputs.size(); ++i) {
                         for (std::size_t d = 0; d < bucket.inputs[i].rank(); ++d) {
                           if (varies(model, i, d)) sizes.insert(bucket.inputs[i][d]);
                         }
                       }
                       return sizes.size() <= 1;
                     });
}

std::vector<at::Tensor> filled(const ModelDescription& model, const std::vector<Shape>& shapes,
                               int value) {
  std::vector<at::Tensor> inputs;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    inputs.push_back(at::full(sizes_of(shapes[i]), value, scalar_type(model.inputs[i].dtype)));
  }
  return inputs;
}

// Inputs whose elements can be told apart, as far as the dtype goes.
std::vector<at::Tensor> patterned(const ModelDescription& model, const std::vector<Shape>& shapes) {
  std::vector<at::Tensor> inputs;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto count = static_cast<std::int64_t>(shapes[i].element_count().value_or(0));
    constexpr std::int64_t kPeriod = 113;  // prime, and every dtype but bool holds it exactly
    inputs.push_back(at::arange(count, at::kLong)
                         .remainder(model.inputs[i].dtype == DType::kBool ? 2 : kPeriod)
                         .to(scalar_type(model.inputs[i].dtype))
                         .view(sizes_of(shapes[i])));
  }
  return inputs;
}

std::string shapes_text(const std::vector<Shape>& shapes) {
  std::string text;
  for (const Shape& shape : shapes) text += (text.empty() ? "" : ", ") + shape.to_string();
  return text;
}

Status refused(const ModelDescription& model, const std::string& what) {
  return Status(StatusCode::kInvalidArgument, "model '" + model.name + "': " + what);
}

// The text of an error without the model's name, which refused() adds.
std::string reason_of(const ModelDescription& model, const Status& status) {
  const std::string prefix = "model '" + model.name + "': ";
  const std::string& text = status.message();
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

Status check_exact(const LoadedModule& module, std::size_t bucket, int fill) {
  const ModelDescription& model = module.description();
  const std::vector<Shape>& shapes = model.buckets[bucket].inputs;
  const auto result = module.run_kernel(filled(model, shapes, fill));
  const std::string where = "at the exact input shapes of bucket " + std::to_string(bucket) + ", " +
                            shapes_text(shapes) + ": ";
  if (!result) return refused(model, where + reason_of(model, result.error()));
  if (model.buckets[result->bucket].inputs != shapes) {
    return refused(model, where + "the bucket kernel chose bucket " +
                              std::to_string(result->bucket) + ", whose input shapes are " +
                              shapes_text(model.buckets[result->bucket].inputs));
  }
  return Status();
}

Status check_beyond(const LoadedModule& module, const std::vector<Shape>& shapes, int fill) {
  const ModelDescription& model = module.description();
  const auto result = module.run_kernel(filled(model, shapes, fill));
  const std::string where = "for inputs of shapes " + shapes_text(shapes) + ": ";
  const bool some_bucket_holds =
      std::any_of(model.buckets.begin(), model.buckets.end(),
                  [&shapes](const BucketSpec& bucket) { return holds(bucket, shapes); });
  if (result) {
    // Where the kernel is given whatever the caller sends, it may also shorten it.
    if (!model.checks_inputs || holds(model.buckets[result->bucket], shapes)) return Status();
    return refused(model, where + "the kernel chose bucket " + std::to_string(result->bucket) +
                              " of shapes " + shapes_text(model.buckets[result->bucket].inputs) +
                              ", which is too small" +
                              (some_bucket_holds ? "" : "; it has to give an empty list"));
  }
  // An empty list, or an exception of the author's, says "no bucket"; a wrong result does not.
  if (result.error().code() == StatusCode::kInternal) {
    return refused(model, where + reason_of(model, result.error()));
  }
  if (some_bucket_holds && varies_as_one(model)) {
    return refused(model, where + "the kernel chose no bucket, although one is large enough: " +
                              reason_of(model, result.error()));
  }
  return Status();
}

// A kernel's input as the worker will lay it out by `layout`.
at::Tensor laid_out(const at::Tensor& given, const Shape& shape, const PlanInput& layout) {
  const at::Tensor source = given.contiguous();
  at::Tensor padded = at::empty(sizes_of(layout.padded), given.options());
  copy_padded(static_cast<std::byte*>(padded.data_ptr()),
              static_cast<const std::byte*>(source.data_ptr()), shape, layout);
  return padded;
}

// Compares the kernel with its declaration on inputs of `shapes`.
Status check_declaration(const LoadedModule& module, const std::vector<Shape>& shapes) {
  const ModelDescription& model = module.description();
  const std::vector<at::Tensor> inputs = patterned(model, shapes);
  std::vector<TensorSignature> signature;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    signature.push_back({model.inputs[i].dtype, shapes[i]});
  }
  Plan plan;
  const Status planned = make_plan(model, signature, plan);
  if (planned.code() == StatusCode::kInternal) {
    return Status(StatusCode::kInvalidArgument, planned.message());
  }
  const bool is_declared = planned.ok();
  const auto result = module.run_kernel(inputs);
  const std::string where = "for inputs of shapes " + shapes_text(shapes) + ": ";
  const std::string bucket_text =
      is_declared ? "bucket " + std::to_string(plan.bucket) : std::string("no bucket");
  if (!result) {
    if (!is_declared && result.error().code() != StatusCode::kInternal) return Status();
    return refused(model, where + "the metadata's pad kernel declares " + bucket_text +
                              ", but: " + reason_of(model, result.error()));
  }
  if (!is_declared || result->bucket != plan.bucket) {
    return refused(model, where + "the metadata's pad kernel declares " + bucket_text +
                              ", the kernel chose bucket " + std::to_string(result->bucket));
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!at::equal(result->inputs[i], laid_out(inputs[i], shapes[i], plan.inputs[i]))) {
      return refused(model, where + "the kernel pads input '" + model.inputs[i].name +
                                "' otherwise than the metadata's pad kernel declares");
    }
  }
  return Status();
}

// `check` with ones, and where these are refused with zeros: a kernel may look at values, and
// either may be senseless to it. The first refusal is reported.
template <typename Check>
Status with_ones_or_zeros(const Check& check) {
  Status status = check(1);
  if (status.ok() || check(0).ok()) return Status();
  return status;
}

Status validate_kernel_at(const LoadedModule& module, std::size_t bucket) {
  const ModelDescription& model = module.description();
  Status status = with_ones_or_zeros([&](int fill) { return check_exact(module, bucket, fill); });
  if (!status.ok()) return status;
  const std::optional<std::vector<Shape>> beyond = stepped_shapes(model, bucket, 1);
  if (beyond) {
    status = with_ones_or_zeros([&](int fill) { return check_beyond(module, *beyond, fill); });
    if (!status.ok()) return status;
  }
  if (model.kernel != KernelKind::kPad) return Status();
  std::vector<std::vector<Shape>> compared{model.buckets[bucket].inputs};
  if (beyond) compared.push_back(*beyond);
  if (auto shorter = stepped_shapes(model, bucket, -1)) compared.push_back(std::move(*shorter));
  for (const std::vector<Shape>& shapes : compared) {
    status = check_declaration(module, shapes);
    if (!status.ok()) return status;
  }
  return Status();
}

Status warm_up_bucket(const LoadedModule& module, const StateViews& state_views, std::size_t bucket,
                      int fill) {
  const ModelDescription& model = module.description();
  std::vector<at::Tensor> scratch;
  std::vector<TensorView> states;
  for (std::size_t s = 0; s < model.states.size(); ++s) {
    scratch.push_back(module.initial_state(s).clone());
    states.push_back({model.states[s].dtype, model.states[s].shape,
                      static_cast<std::byte*>(scratch.back().data_ptr())});
  }
  SessionViews session(states, model.buckets.size());
  StateTraffic traffic;
  const auto views = state_views.slice(bucket, session, traffic);
  if (!views) return views.error();
  const auto outputs =
      module.run_bucket(bucket, filled(model, model.buckets[bucket].inputs, fill), **views);
  if (!outputs) return outputs.error();
  return state_views.write_back(bucket, *outputs, **views, traffic);
}

}  // namespace

std::optional<std::vector<Shape>> stepped_shapes(const ModelDescription& model, std::size_t bucket,
                                                 std::int64_t step) {
  std::vector<Shape> shapes = model.buckets[bucket].inputs;
  bool changed = false;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    for (std::size_t d = 0; d < shapes[i].rank(); ++d) {
      if (!varies(model, i, d)) continue;
      shapes[i][d] += step;
      if (shapes[i][d] < model.accepted[i][d].min) return std::nullopt;
      changed = true;
    }
  }
  if (!changed) return std::nullopt;
  return shapes;
}

Status validate_kernel(const LoadedModule& module) {
  const ModelDescription& model = module.description();
  try {
    for (std::size_t b = 0; b < model.buckets.size(); ++b) {
      if (Status status = validate_kernel_at(module, b); !status.ok()) return status;
    }
    return Status();
  } catch (...) {
    return status_from_libtorch("model '" + model.name + "': its kernel cannot be validated",
                                StatusCode::kInvalidArgument);
  }
}

Status warm_up(const LoadedModule& module, const StateViews& state_views) {
  const ModelDescription& model = module.description();
  try {
    for (std::size_t b = 0; b < model.buckets.size(); ++b) {
      Status status = warm_up_bucket(module, state_views, b, 0);
      if (!status.ok() && warm_up_bucket(module, state_views, b, 1).ok()) status = Status();
      if (!status.ok()) {
        return Status(status.code() == StatusCode::kResourceExhausted
                          ? status.code()
                          : StatusCode::kInvalidArgument,
                      status.message());
      }
    }
    return Status();
  } catch (...) {
    return status_from_libtorch("model '" + model.name + "': it cannot be warmed up",
                                StatusCode::kInvalidArgument);
  }
}

}  // namespace bucketd::torchscript
