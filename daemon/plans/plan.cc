#include "daemon/plans/plan.h"

#include <algorithm>
#include <string>

#include "common/channel_layout.h"
#include "daemon/plans/exact_bits.h"
#include "daemon/plans/forwarding.h"
#include "daemon/plans/padding.h"

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

// Private memory for `count` tensors more behind what `bytes` counts.
bool append_bytes(std::optional<std::uint64_t> size, std::uint64_t& bytes) {
  if (!size) return false;
  const std::optional<std::uint64_t> aligned = align_up(*size, kTensorAlignment);
  return aligned && !__builtin_add_overflow(bytes, *aligned, &bytes);
}

// Dtypes, shapes and places of the bucket's inputs, one after the other.
Status place_inputs(const ModelDescription& model, std::size_t bucket, Plan& plan) {
  plan.inputs.resize(model.inputs.size());
  plan.private_bytes = 0;
  for (std::size_t i = 0; i < plan.inputs.size(); ++i) {
    PlanInput& input = plan.inputs[i];
    input = {};
    input.source = static_cast<std::uint16_t>(i);
    input.dtype = model.inputs[i].dtype;
    input.padded = model.buckets[bucket].inputs[i];
    input.offset = plan.private_bytes;
    // A validated description's buckets do not overflow, one by one; their sum may.
    const std::optional<std::uint64_t> bytes = input.padded.byte_size(input.dtype);
    if (!append_bytes(bytes, plan.private_bytes)) {
      return Status(StatusCode::kInternal, "model '" + model.name + "': the sizes of bucket " +
                                               std::to_string(bucket) + " overflow");
    }
    input.padded_bytes = *bytes;
  }
  return Status();
}

// Whether `holds` is input `source` as it is, in one place, and one value around it; notes where
// and what in `layout`.
bool pads(const Regions& holds, const MoveList& list, std::uint32_t source,
          const TensorSignature& signature, PlanInput& layout) {
  const std::size_t rank = layout.padded.rank();
  const Shape& shape = signature.shape;
  if (signature.dtype != layout.dtype || shape.rank() != rank) return false;
  // Splits of dims would have to be undone; a kernel that pads makes none.
  if (!std::ranges::equal(holds.dims(), layout.padded.dims())) return false;
  const bool is_empty = shape.element_count() == 0u || layout.padded_bytes == 0;
  bool is_placed = false;
  std::optional<std::uint64_t> fill;
  for (const Region& region : holds.list()) {
    if (region.content.kind == Content::Kind::kFill) {
      if (fill && *fill != region.content.fill_bits) return false;
      fill = region.content.fill_bits;
      continue;
    }
    const MoveBuffer& from = list.buffers[region.content.from];
    if (is_placed || from.kind != BufferKind::kInput || from.index != source) return false;
    if (region.content.from_offset != 0) return false;
    std::int64_t stride = 1;
    for (std::size_t d = rank; d-- > 0;) {
      if (region.size[d] != shape[d]) return false;
      if (shape[d] > 1 && region.content.from_strides[d] != stride) return false;
      stride *= shape[d];
      layout.pad_before[d] = region.start[d];
    }
    is_placed = true;
  }
  if (is_empty) {
    for (std::size_t d = 0; d < rank; ++d) {
      if (shape[d] > layout.padded[d]) return false;
    }
  }
  layout.fill_bits = fill.value_or(0);
  return is_placed || is_empty;
}

// The move that gives a box of an output what it holds.
Move move_of(const Regions& holds, const Region& region, std::uint32_t output) {
  Move move;
  move.to = output;
  move.rank = static_cast<std::uint32_t>(holds.dims().size());
  for (std::size_t d = 0; d < holds.dims().size(); ++d) {
    move.to_offset += region.start[d] * holds.stride(d);
    move.dims[d] = {region.size[d], holds.stride(d), 0};
  }
  if (region.content.kind == Content::Kind::kFill) {
    move.fill_bits = region.content.fill_bits;
  } else {
    move.from = region.content.from;
    move.from_offset = region.content.from_offset;
    for (std::size_t d = 0; d < holds.dims().size(); ++d) {
      move.dims[d].from_stride = region.content.from_strides[d];
    }
  }
  return move;
}

Status unwritten(const ModelDescription& model, std::size_t input) {
  return Status(StatusCode::kUnimplemented, "aten::empty: input '" + model.inputs[input].name +
                                                "' of the bucket would hold memory that the kernel "
                                                "never writes");
}

}  // namespace

Status make_plan(const ModelDescription& model, std::size_t bucket,
                 std::span<const TensorSignature> inputs, MoveList recorded, Plan& plan) {
  plan.id = 0;
  plan.bucket = static_cast<std::uint32_t>(bucket);
  plan.signature.assign(inputs.begin(), inputs.end());
  plan.moves = {};
  plan.is_padding = false;
  if (Status status = place_inputs(model, bucket, plan); !status.ok()) return status;

  const std::optional<std::vector<Regions>> outputs = forward_moves(recorded, plan.inputs.size());
  if (outputs) {
    plan.is_padding = inputs.size() == plan.inputs.size();
    std::vector<Move> direct;
    for (std::uint32_t b = 0; b < recorded.buffers.size(); ++b) {
      const MoveBuffer& buffer = recorded.buffers[b];
      if (buffer.kind != BufferKind::kOutput) continue;
      const Regions& holds = (*outputs)[buffer.index];
      for (const Region& region : holds.list()) {
        if (region.content.kind == Content::Kind::kUnwritten) return unwritten(model, buffer.index);
        direct.push_back(move_of(holds, region, b));
      }
      if (plan.is_padding &&
          !pads(holds, recorded, buffer.index, inputs[buffer.index], plan.inputs[buffer.index])) {
        plan.is_padding = false;
      }
    }
    if (plan.is_padding) return Status();
    recorded.moves = std::move(direct);
  } else {
    drop_dead_moves(recorded);
    if (const std::optional<std::uint32_t> output = find_unwritten_output(recorded)) {
      return unwritten(model, *output);
    }
  }
  const bool has_constants = std::ranges::any_of(recorded.moves, [&](const Move& move) {
    return !move.is_fill() && recorded.buffers[move.from].kind == BufferKind::kConstant;
  });
  if (!has_constants) recorded.constants = {};
  if (recorded.moves.size() > kMaxPlanMoves || recorded.constants.size() > kMaxPlanConstantBytes) {
    return Status(StatusCode::kUnimplemented,
                  "it would take " + std::to_string(recorded.moves.size()) + " moves and " +
                      std::to_string(recorded.constants.size()) +
                      " bytes of constants, more than a plan may keep");
  }
  for (Move& move : recorded.moves) simplify(move);
  for (MoveBuffer& buffer : recorded.buffers) {
    if (buffer.kind == BufferKind::kOutput) {
      buffer.offset = plan.inputs[buffer.index].offset;
    } else if (buffer.kind == BufferKind::kTemporary && !outputs) {
      buffer.offset = plan.private_bytes;
      const auto bytes =
          static_cast<std::uint64_t>(element_count(buffer.dims)) * dtype_size_bytes(buffer.dtype);
      if (!append_bytes(bytes, plan.private_bytes)) {
        return Status(StatusCode::kInternal,
                      "model '" + model.name + "': the sizes of the kernel's temporaries overflow");
      }
    }
  }
  plan.moves = std::move(recorded);
  return Status();
}

void lay_out(const Plan& plan, std::span<const std::byte* const> inputs, std::byte* memory) {
  if (!plan.is_padding) return run_moves(plan.moves, inputs, memory);
  for (const PlanInput& input : plan.inputs) {
    copy_padded(memory + input.offset, inputs[input.source], plan.signature[input.source].shape,
                input);
  }
}

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
  plan.is_padding = true;
  plan.moves = {};
  plan.bucket = static_cast<std::uint32_t>(bucket - model.buckets.begin());
  plan.signature.assign(inputs.begin(), inputs.end());
  if (Status status = place_inputs(model, plan.bucket, plan); !status.ok()) return status;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    PlanInput& input = plan.inputs[i];
    const std::optional<std::uint64_t> bits = exact_bits(inputs[i].dtype, model.pad.value[i]);
    if (!bits) {
      return Status(StatusCode::kInternal, input_text(model, i) + ": the kernel's fill value " +
                                               std::to_string(model.pad.value[i]) + " is no " +
                                               std::string(dtype_name(inputs[i].dtype)));
    }
    input.fill_bits = *bits;
    input.pad_before = {};
    if (model.pad.side[i] == PadSide::kLeft) {
      for (std::size_t d = 0; d < input.padded.rank(); ++d) {
        input.pad_before[d] = input.padded[d] - inputs[i].shape[d];
      }
    }
  }
  return Status();
}

}  // namespace bucketd
