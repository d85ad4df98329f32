#include "daemon/backends/torchscript/state_views.h"

#include <algorithm>
#include <utility>

#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

bool shares_storage(const at::Tensor& a, const at::Tensor& b) {
  return a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl();
}

bool is_same_view(const at::Tensor& a, const at::Tensor& b) {
  return shares_storage(a, b) && a.storage_offset() == b.storage_offset() &&
         a.strides() == b.strides();
}

}  // namespace

Result<StateViews> StateViews::make(const LoadedModule& module) {
  StateViews result(module);
  const ModelDescription& model = module.description();
  if (model.states.empty()) return result;
  try {
    std::vector<at::Tensor> states;
    for (std::size_t s = 0; s < model.states.size(); ++s) {
      states.push_back(module.initial_state(s).clone());
    }
    std::vector<std::vector<Geometry>> geometry;
    bool all_are_views = true;
    for (std::size_t b = 0; b < model.buckets.size(); ++b) {
      const auto views = result.slice_by_preprocessor(b, states);
      if (!views) return error(Status(StatusCode::kInvalidArgument, views.error().message()));
      geometry.emplace_back();
      for (std::size_t s = 0; s < views->size(); ++s) {
        const at::Tensor& view = (*views)[s];
        all_are_views = all_are_views && shares_storage(view, states[s]);
        geometry.back().push_back(
            {static_cast<std::uint64_t>(view.storage_offset()) * view.itemsize(),
             view.sizes().vec(), view.strides().vec()});
      }
    }
    if (all_are_views && (!model.has_preprocessor || module.preprocessor_is_static())) {
      result.geometry_ = std::move(geometry);
    }
  } catch (...) {
    return error(status_from_libtorch("model '" + model.name + "': its states cannot be sliced",
                                      StatusCode::kInvalidArgument));
  }
  return result;
}

Result<std::vector<at::Tensor>> StateViews::slice_by_preprocessor(
    std::size_t bucket, const std::vector<at::Tensor>& states) const {
  const ModelDescription& model = module_->description();
  Result<std::vector<at::Tensor>> views = states;
  if (model.has_preprocessor) views = module_->run_preprocessor(bucket, states);
  if (!views) return views;
  const auto misfit = [&](const std::string& what) {
    return error(StatusCode::kInternal, "model '" + model.name +
                                            "': the state preprocessor, for bucket " +
                                            std::to_string(bucket) + ", " + what);
  };
  if (views->size() != states.size()) {
    return misfit("gives " + std::to_string(views->size()) + " tensors for " +
                  std::to_string(states.size()) + " states");
  }
  for (std::size_t s = 0; s < states.size(); ++s) {
    const StateSpec& state = model.states[s];
    const Shape& shape = model.buckets[bucket].states[s];
    const at::Tensor& view = (*views)[s];
    if (!has_signature(view, state.dtype, shape)) {
      return misfit("gives state '" + state.name + "' as " + signature_text(view) +
                    " where the bucket takes " + signature_text(state.dtype, shape));
    }
    if (shares_storage(view, states[s])) continue;
    const bool is_updated = module_->writes_state(bucket, s) ||
                            std::any_of(model.aliases.begin(), model.aliases.end(),
                                        [s](const AliasSpec& alias) { return alias.state == s; });
    if (is_updated) {
      return misfit("gives a copy of state '" + state.name +
                    "', which the bucket updates: the update would be lost; slice the state "
                    "instead");
    }
  }
  return views;
}

Result<std::vector<at::Tensor>> StateViews::slice(std::size_t bucket,
                                                  std::span<const TensorView> states) const {
  try {
    std::vector<at::Tensor> result;
    result.reserve(states.size());
    if (!geometry_.empty()) {
      for (std::size_t s = 0; s < states.size(); ++s) {
        const Geometry& view = geometry_[bucket][s];
        const at::TensorOptions options =
            at::TensorOptions(scalar_type(states[s].dtype)).device(at::kCPU);
        if (states[s].data == nullptr) {
          result.push_back(at::empty(view.sizes, options));
        } else {
          result.push_back(
              at::from_blob(states[s].data + view.offset_bytes, view.sizes, view.strides, options));
        }
      }
      return result;
    }
    for (const TensorView& state : states) result.push_back(tensor_on(state));
    return slice_by_preprocessor(bucket, result);
  } catch (...) {
    return error(status_from_libtorch(
        "model '" + module_->description().name + "': its states cannot be sliced",
        StatusCode::kInternal));
  }
}

Status StateViews::write_back(std::size_t bucket, const std::vector<at::Tensor>& outputs,
                              const std::vector<at::Tensor>& views) const {
  const ModelDescription& model = module_->description();
  try {
    std::vector<at::Tensor> values;
    values.reserve(model.aliases.size());
    for (const AliasSpec& alias : model.aliases) {
      const at::Tensor& output = outputs[alias.output];
      // What a bucket gives can only overlap a state through an argument that it got.
      const bool overlaps =
          !is_same_view(output, views[alias.state]) &&
          std::any_of(views.begin(), views.end(),
                      [&output](const at::Tensor& view) { return shares_storage(output, view); });
      values.push_back(overlaps ? output.clone() : output);
    }
    for (std::size_t a = 0; a < model.aliases.size(); ++a) {
      const at::Tensor& view = views[model.aliases[a].state];
      if (!is_same_view(values[a], view)) view.copy_(values[a]);
    }
    return Status();
  } catch (...) {
    return status_from_libtorch("model '" + model.name + "': bucket " + std::to_string(bucket) +
                                    " cannot update its states",
                                StatusCode::kInternal);
  }
}

}  // namespace bucketd::torchscript
