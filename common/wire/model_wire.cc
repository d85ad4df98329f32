#include "common/wire/model_wire.h"

#include <string>
#include <vector>

namespace bucketd::wire {
namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;
template <typename T>
using Offsets = std::vector<Offset<T>>;

Offset<Shape> shape_to_wire(FlatBufferBuilder& builder, const bucketd::Shape& shape) {
  return CreateShape(builder, builder.CreateVector(shape.dims().data(), shape.rank()));
}

auto shapes_to_wire(FlatBufferBuilder& builder, const std::vector<bucketd::Shape>& shapes) {
  Offsets<Shape> offsets;
  for (const bucketd::Shape& shape : shapes) offsets.push_back(shape_to_wire(builder, shape));
  return builder.CreateVector(offsets);
}

auto specs_to_wire(FlatBufferBuilder& builder, const std::vector<bucketd::TensorSpec>& specs) {
  Offsets<TensorSpec> offsets;
  for (const bucketd::TensorSpec& spec : specs) {
    offsets.push_back(CreateTensorSpec(builder, builder.CreateString(spec.name),
                                       static_cast<std::uint8_t>(spec.dtype)));
  }
  return builder.CreateVector(offsets);
}

std::string text(const flatbuffers::String* string) {
  return string != nullptr ? string->str() : std::string();
}

// The elements of a vector that may be absent.
template <typename Vector, typename Visit>
void for_each(const Vector* vector, Visit visit) {
  if (vector == nullptr) return;
  for (const auto* element : *vector) visit(*element);
}

tl::unexpected<bucketd::Status> malformed(const std::string& what) {
  return error(StatusCode::kInvalidArgument, "malformed model description: " + what);
}

// Reads a Shape; rank and signs are checked here, everything else by validate().
bool read_shape(const Shape* shape, std::vector<bucketd::Shape>& into) {
  if (shape == nullptr) return false;
  std::span<const std::int64_t> dims;
  if (shape->dims() != nullptr) dims = {shape->dims()->data(), shape->dims()->size()};
  const std::optional<bucketd::Shape> read = bucketd::Shape::from(dims);
  if (!read) return false;
  into.push_back(*read);
  return true;
}

using WireShapes = flatbuffers::Vector<Offset<Shape>>;
bool read_shapes(const WireShapes* shapes, std::vector<bucketd::Shape>& into) {
  bool good = true;
  for_each(shapes, [&](const Shape& shape) { good = good && read_shape(&shape, into); });
  return good;
}

void read_specs(const flatbuffers::Vector<Offset<TensorSpec>>* specs,
                std::vector<bucketd::TensorSpec>& into) {
  for_each(specs, [&](const TensorSpec& spec) {
    into.push_back({text(spec.name()), static_cast<DType>(spec.dtype())});
  });
}

bucketd::PadSide side_of(PadSide side) {
  return side == PadSide::kLeft ? bucketd::PadSide::kLeft : bucketd::PadSide::kRight;
}
PadSide side_of(bucketd::PadSide side) {
  return side == bucketd::PadSide::kLeft ? PadSide::kLeft : PadSide::kRight;
}

bucketd::StateViewKind kind_of(StateViewKind kind) {
  return kind <= StateViewKind::MAX ? static_cast<bucketd::StateViewKind>(kind)
                                    : bucketd::StateViewKind::kUnknown;
}

bucketd::KernelPlanning planning_of(KernelPlanning planning) {
  return planning <= KernelPlanning::MAX ? static_cast<bucketd::KernelPlanning>(planning)
                                         : bucketd::KernelPlanning::kUnknown;
}

}  // namespace

Offset<ModelDescription> to_wire(FlatBufferBuilder& builder,
                                 const bucketd::ModelDescription& model) {
  Offsets<StateSpec> states;
  for (const bucketd::StateSpec& state : model.states) {
    states.push_back(
        CreateStateSpec(builder, builder.CreateString(state.name),
                        static_cast<std::uint8_t>(state.dtype), shape_to_wire(builder, state.shape),
                        state.sequence_dim ? static_cast<std::int32_t>(*state.sequence_dim) : -1,
                        side_of(state.align)));
  }
  Offsets<BucketSpec> buckets;
  for (const bucketd::BucketSpec& bucket : model.buckets) {
    const auto inputs = shapes_to_wire(builder, bucket.inputs);
    const auto outputs = shapes_to_wire(builder, bucket.outputs);
    const auto bucket_states = shapes_to_wire(builder, bucket.states);
    Offsets<StateView> views;
    for (const bucketd::StateViewSpec& view : bucket.state_views) {
      // Most reasons are the same: each is written once.
      views.push_back(CreateStateView(builder, static_cast<StateViewKind>(view.kind),
                                      builder.CreateSharedString(view.reason)));
    }
    buckets.push_back(
        CreateBucketSpec(builder, inputs, outputs, bucket_states, builder.CreateVector(views)));
  }
  std::vector<AliasSpec> aliases;
  for (const bucketd::AliasSpec& alias : model.aliases) {
    aliases.emplace_back(alias.state, alias.output);
  }
  std::vector<CropRule> crop;
  for (const bucketd::CropRule& rule : model.crop) {
    crop.emplace_back(rule.output, rule.dim, rule.input, rule.input_dim, side_of(rule.side),
                      rule.numerator, rule.denominator);
  }
  Offsets<PadInput> pad;
  if (model.kernel == bucketd::KernelKind::kPad) {
    for (std::size_t i = 0; i < model.pad.dims.size(); ++i) {
      const auto dims = builder.CreateVector(model.pad.dims[i]);
      pad.push_back(CreatePadInput(builder, dims, model.pad.value[i], side_of(model.pad.side[i])));
    }
  }
  Offsets<AcceptedInput> accepted;
  for (const std::vector<bucketd::DimRange>& ranges : model.accepted) {
    std::vector<DimRange> dims;
    for (const bucketd::DimRange& range : ranges) dims.emplace_back(range.min, range.max);
    accepted.push_back(CreateAcceptedInput(builder, builder.CreateVectorOfStructs(dims)));
  }
  Offsets<InputUse> uses;
  for (const bucketd::InputUseSpec& use : model.input_uses) {
    uses.push_back(CreateInputUse(builder, use.in_place, builder.CreateString(use.reason)));
  }
  const auto name = builder.CreateString(model.name);
  const auto backend = builder.CreateString(model.backend);
  const auto producer = builder.CreateString(model.producer);
  const auto digest = builder.CreateString(model.digest);
  const auto inputs = specs_to_wire(builder, model.inputs);
  const auto outputs = specs_to_wire(builder, model.outputs);
  const auto states_vector = builder.CreateVector(states);
  const auto aliases_vector = builder.CreateVectorOfStructs(aliases);
  const auto buckets_vector = builder.CreateVector(buckets);
  const auto crop_vector = builder.CreateVectorOfStructs(crop);
  const auto pad_vector = builder.CreateVector(pad);
  const auto accepted_vector = builder.CreateVector(accepted);
  const auto planning_reason = builder.CreateString(model.planning.reason);
  const auto uses_vector = builder.CreateVector(uses);
  return CreateModelDescription(
      builder, name, backend, producer, digest, inputs, outputs, states_vector, aliases_vector,
      buckets_vector, crop_vector,
      model.kernel == bucketd::KernelKind::kPad ? KernelKind::kPad : KernelKind::kTorchScript,
      pad_vector, model.has_preprocessor, model.checks_inputs, accepted_vector,
      static_cast<KernelPlanning>(model.planning.kind), planning_reason, uses_vector);
}

Result<bucketd::ModelDescription> from_wire(const ModelDescription& wire) {
  bucketd::ModelDescription model;
  model.name = text(wire.name());
  model.backend = text(wire.backend());
  model.producer = text(wire.producer());
  model.digest = text(wire.digest());
  read_specs(wire.inputs(), model.inputs);
  read_specs(wire.outputs(), model.outputs);
  bool good = true;
  for_each(wire.states(), [&](const StateSpec& state) {
    std::vector<bucketd::Shape> shape;
    good = good && read_shape(state.shape(), shape);
    if (!good) return;
    std::optional<std::uint32_t> sequence_dim;
    if (state.sequence_dim() >= 0) sequence_dim = static_cast<std::uint32_t>(state.sequence_dim());
    model.states.push_back({text(state.name()), static_cast<DType>(state.dtype()), shape.front(),
                            sequence_dim, side_of(state.align())});
  });
  if (!good) return malformed("the shape of a state");
  for_each(wire.buckets(), [&](const BucketSpec& bucket) {
    bucketd::BucketSpec& spec = model.buckets.emplace_back();
    good = good && read_shapes(bucket.inputs(), spec.inputs) &&
           read_shapes(bucket.outputs(), spec.outputs) && read_shapes(bucket.states(), spec.states);
    for_each(bucket.state_views(), [&](const StateView& view) {
      spec.state_views.push_back({kind_of(view.kind()), text(view.reason())});
    });
  });
  if (!good) return malformed("a shape of a bucket");
  for_each(wire.aliases(), [&](const AliasSpec& alias) {
    model.aliases.push_back({alias.state(), alias.output()});
  });
  for_each(wire.crop(), [&](const CropRule& rule) {
    model.crop.push_back({rule.output(), rule.dim(), rule.input(), rule.input_dim(),
                          side_of(rule.side()), rule.numerator(), rule.denominator()});
  });
  model.kernel = wire.kernel() == KernelKind::kPad ? bucketd::KernelKind::kPad
                                                   : bucketd::KernelKind::kTorchScript;
  for_each(wire.pad(), [&](const PadInput& input) {
    std::vector<std::uint32_t>& dims = model.pad.dims.emplace_back();
    if (input.dims() != nullptr) dims.assign(input.dims()->begin(), input.dims()->end());
    model.pad.value.push_back(input.value());
    model.pad.side.push_back(side_of(input.side()));
  });
  model.planning = {planning_of(wire.planning()), text(wire.planning_reason())};
  model.has_preprocessor = wire.has_preprocessor();
  model.checks_inputs = wire.checks_inputs();
  for_each(wire.accepted(), [&](const AcceptedInput& input) {
    std::vector<bucketd::DimRange>& ranges = model.accepted.emplace_back();
    for_each(input.dims(), [&](const DimRange& range) {
      ranges.push_back({range.min(), range.max()});
    });
  });
  for_each(wire.input_uses(), [&](const InputUse& use) {
    model.input_uses.push_back({use.in_place(), text(use.reason())});
  });
  if (const bucketd::Status status = validate(model); !status.ok()) {
    return error(status.with_context("malformed model description"));
  }
  return model;
}

Offset<Status> to_wire(FlatBufferBuilder& builder, const bucketd::Status& status) {
  return CreateStatus(builder, static_cast<std::uint32_t>(status.code()),
                      builder.CreateString(status.message()));
}

bucketd::Status from_wire(const Status* status) {
  if (status == nullptr) {
    return bucketd::Status(StatusCode::kInternal, "the peer sent an error without a reason");
  }
  const StatusCode code = is_known_status_code(status->code())
                              ? static_cast<StatusCode>(status->code())
                              : StatusCode::kUnknown;
  return bucketd::Status(code, text(status->message()));
}

LaneLayout to_wire(const bucketd::LaneLayout& layout) {
  return LaneLayout(layout.slot_count, layout.input_slot_bytes, layout.output_slot_bytes,
                    layout.submission_ring_offset, layout.input_slots_offset, layout.region_a_bytes,
                    layout.completion_ring_offset, layout.output_slots_offset,
                    layout.region_b_bytes);
}

Result<bucketd::LaneLayout> from_wire(const LaneLayout* wire) {
  if (wire == nullptr) return error(StatusCode::kInvalidArgument, "the lane has no layout");
  bucketd::LaneLayout layout;
  layout.slot_count = wire->slot_count();
  layout.input_slot_bytes = wire->input_slot_bytes();
  layout.output_slot_bytes = wire->output_slot_bytes();
  layout.submission_ring_offset = wire->submission_ring_offset();
  layout.input_slots_offset = wire->input_slots_offset();
  layout.region_a_bytes = wire->region_a_bytes();
  layout.completion_ring_offset = wire->completion_ring_offset();
  layout.output_slots_offset = wire->output_slots_offset();
  layout.region_b_bytes = wire->region_b_bytes();
  if (!is_consistent(layout)) {
    return error(StatusCode::kInvalidArgument, "the lane's layout contradicts itself");
  }
  return layout;
}

}  // namespace bucketd::wire
