#include "daemon/backends/torchscript/state_views.h"

#include <algorithm>
#include <utility>

#include "daemon/backends/torchscript/kept_views.h"
#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/state_view_spec.h"
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

bool shares_storage_with_any(const at::Tensor& tensor, const std::vector<at::Tensor>& others) {
  return std::any_of(others.begin(), others.end(),
                     [&tensor](const at::Tensor& other) { return shares_storage(tensor, other); });
}

}  // namespace

std::vector<const std::byte*> kept_view_addresses(const BoundStates& states, std::size_t bucket) {
  std::vector<const std::byte*> addresses;
  for (const at::Tensor& view : dynamic_cast<const SessionViews&>(states).kept[bucket]) {
    addresses.push_back(static_cast<const std::byte*>(view.data_ptr()));
  }
  return addresses;
}

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
      result.specs_.emplace_back();
      for (std::size_t s = 0; s < views->size(); ++s) {
        const at::Tensor& view = (*views)[s];
        all_are_views = all_are_views && shares_storage(view, states[s]);
        geometry.back().push_back(
            {static_cast<std::uint64_t>(view.storage_offset()) * view.itemsize(),
             view.sizes().vec(), view.strides().vec()});
        result.specs_.back().push_back(result.describe(view, states, s));
      }
    }
    if (all_are_views && module.preprocessor().is_static) {
      result.geometry_ = std::move(geometry);
    }
  } catch (...) {
    return error(status_from_libtorch("model '" + model.name + "': its states cannot be sliced",
                                      StatusCode::kInvalidArgument));
  }
  return result;
}

StateViewSpec StateViews::describe(const at::Tensor& view, const std::vector<at::Tensor>& states,
                                   std::size_t state) const {
  const StateSpec& spec = module_->description().states[state];
  const PreprocessorAnalysis& preprocessor = module_->preprocessor();
  if (!shares_storage_with_any(view, states)) {
    const std::string& copying = preprocessor.copying_operator;
    return {StateViewKind::kCopy, "the preprocessor gives a copy" +
                                      (copying.empty() ? "" : " (" + copying + ")") +
                                      ", which is made for every request"};
  }
  StateViewSpec result = describe_view(view, spec);
  if (!shares_storage(view, states[state])) result.reason = "a view of another state";
  if (!preprocessor.is_static) {
    result.reason += "; the preprocessor runs for every request, since " + preprocessor.reason;
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

Result<const std::vector<at::Tensor>*> StateViews::slice(std::size_t bucket, SessionViews& session,
                                                         StateTraffic& traffic) const {
  try {
    if (!geometry_.empty()) {
      std::vector<at::Tensor>& views = session.kept[bucket];
      if (!views.empty()) return &views;
      std::vector<at::Tensor> made;
      made.reserve(session.full.size());
      for (std::size_t s = 0; s < session.full.size(); ++s) {
        const TensorView& state = session.full[s];
        const Geometry& view = geometry_[bucket][s];
        const at::TensorOptions options =
            at::TensorOptions(scalar_type(state.dtype)).device(at::kCPU);
        if (state.data == nullptr) {
          made.push_back(at::empty(view.sizes, options));
        } else {
          made.push_back(
              at::from_blob(state.data + view.offset_bytes, view.sizes, view.strides, options));
        }
      }
      views = std::move(made);
      return &views;
    }
    std::vector<at::Tensor> states;
    for (const TensorView& state : session.full) states.push_back(tensor_on(state));
    Result<std::vector<at::Tensor>> views = slice_by_preprocessor(bucket, states);
    if (!views) return error(views.error());
    for (const at::Tensor& view : *views) {
      if (!shares_storage_with_any(view, states)) traffic.bytes_copied += view.nbytes();
    }
    session.passing = std::move(*views);
    return &session.passing;
  } catch (...) {
    return error(status_from_libtorch(
        "model '" + module_->description().name + "': its states cannot be sliced",
        StatusCode::kInternal));
  }
}

void StateViews::release(std::size_t bucket, SessionViews& session) const {
  session.passing.clear();
  if (geometry_.empty()) return;
  std::vector<at::Tensor>& views = session.kept[bucket];
  // A bucket may change its arguments' sizes and strides (resize_, t_), not only their values.
  for (std::size_t s = 0; s < views.size(); ++s) {
    const Geometry& made = geometry_[bucket][s];
    const bool is_as_made = views[s].sizes().equals(made.sizes) &&
                            views[s].strides().equals(made.strides) &&
                            (session.full[s].data == nullptr ||
                             views[s].data_ptr() == session.full[s].data + made.offset_bytes);
    if (!is_as_made) return views.clear();
  }
}

Status StateViews::write_back(std::size_t bucket, const std::vector<at::Tensor>& outputs,
                              const std::vector<at::Tensor>& views, StateTraffic& traffic) const {
  const ModelDescription& model = module_->description();
  try {
    std::vector<at::Tensor> values;
    values.reserve(model.aliases.size());
    for (const AliasSpec& alias : model.aliases) {
      const at::Tensor& output = outputs[alias.output];
      // What a bucket gives can only overlap a state through an argument that it got.
      const bool overlaps =
          !is_same_view(output, views[alias.state]) && shares_storage_with_any(output, views);
      values.push_back(overlaps ? output.clone() : output);
    }
    for (std::size_t a = 0; a < model.aliases.size(); ++a) {
      const at::Tensor& view = views[model.aliases[a].state];
      if (is_same_view(values[a], view)) continue;  // written in place
      view.copy_(values[a]);
      traffic.bytes_written_back += view.nbytes();
    }
    return Status();
  } catch (...) {
    return status_from_libtorch("model '" + model.name + "': bucket " + std::to_string(bucket) +
                                    " cannot update its states",
                                StatusCode::kInternal);
  }
}

}  // namespace bucketd::torchscript
