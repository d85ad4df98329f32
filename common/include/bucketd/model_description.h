// ModelDescription: what a loaded bucket model takes, gives and holds, as every part of bucketd and
// its users see it.
//
// Thread safety: values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/dtype.h"
#include "bucketd/shape.h"
#include "bucketd/status.h"

namespace bucketd {

enum class PadSide : std::uint8_t { kRight = 0, kLeft = 1 };

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// One shared-state buffer, at its largest shape.
struct StateSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::optional<std::uint32_t> sequence_dim;  // where the author named it
  // Where along it the positions in use lie: kRight from the start (the rest is at the right),
  // kLeft at the end.
  PadSide align = PadSide::kRight;
  friend bool operator==(const StateSpec&, const StateSpec&) = default;
};

// How a bucket gets a state out of the session's memory: as a view of it, or as a copy that is made
// for every request; and why. Found by the backend when it loads the model, not the artifact's.
enum class StateViewKind : std::uint8_t {
  kUnknown = 0,
  kContiguous = 1,
  kStrided = 2,
  kCopy = 3,
};
struct StateViewSpec {
  StateViewKind kind = StateViewKind::kUnknown;
  std::string reason;
  friend bool operator==(const StateViewSpec&, const StateViewSpec&) = default;
};

// One static input signature and what it gives. Vectors run parallel to the model's inputs,
// outputs and states.
struct BucketSpec {
  std::vector<Shape> inputs;
  std::vector<Shape> outputs;
  std::vector<Shape> states;
  std::vector<StateViewSpec> state_views = {};  // empty until a backend has loaded it
  friend bool operator==(const BucketSpec&, const BucketSpec&) = default;
};

// State `state` is replaced by output number `output` of the bucket, counted over all outputs with
// the ordinary ones first.
struct AliasSpec {
  std::uint32_t state = 0;
  std::uint32_t output = 0;
  friend bool operator==(const AliasSpec&, const AliasSpec&) = default;
};

// Dimension `dim` of output `output` follows dimension `input_dim` of input `input`: for size n the
// caller gets ceil(n * numerator / denominator) elements, from the start (kRight: the padding is at
// the right) or from the end (kLeft).
struct CropRule {
  std::uint32_t output = 0;
  std::uint32_t dim = 0;
  std::uint32_t input = 0;
  std::uint32_t input_dim = 0;
  PadSide side = PadSide::kRight;
  std::uint32_t numerator = 1;
  std::uint32_t denominator = 1;
  friend bool operator==(const CropRule&, const CropRule&) = default;
};

// What sizes a dimension of an input may have.
struct DimRange {
  std::int64_t min = 0;
  std::int64_t max = 0;
  friend bool operator==(const DimRange&, const DimRange&) = default;
};

enum class KernelKind : std::uint8_t {
  kTorchScript = 0,  // user-written, run as it is
  kPad = 1,          // declarative: first bucket that fits, padded (see PadKernelSpec)
};

// The declarative bucket kernel. Takes the first bucket whose every input shape is at least the
// caller's in the padded dims and equal in all others; pads each input with its value on its side.
// Vectors run parallel to the model's inputs.
struct PadKernelSpec {
  std::vector<std::vector<std::uint32_t>> dims;
  std::vector<double> value;
  std::vector<PadSide> side;
  friend bool operator==(const PadKernelSpec&, const PadKernelSpec&) = default;
};

// Whether requests are laid out by plans, without running the kernel. Found by the backend when it
// loads the model, not the artifact's.
enum class KernelPlanning : std::uint8_t {
  kUnknown = 0,
  kPlanned = 1,
  kPartly = 2,  // for some sizes of the inputs
  kUnplanned = 3,
};
struct KernelPlanSpec {
  KernelPlanning kind = KernelPlanning::kUnknown;
  std::string reason;  // kPartly, kUnplanned: the operator that prevents it, and why
  friend bool operator==(const KernelPlanSpec&, const KernelPlanSpec&) = default;
};

// Whether buckets read an input where the client wrote it, or the worker copies it first; and why.
// Of inputs that are laid out as the bucket takes them. Found by the backend when it loads the
// model, not the artifact's.
struct InputUseSpec {
  bool in_place = false;
  std::string reason;
  friend bool operator==(const InputUseSpec&, const InputUseSpec&) = default;
};

struct ModelDescription {
  std::string name;
  std::string backend;   // "torchscript"
  std::string producer;  // who wrote the artifact
  std::string digest;    // SHA-256 of the artifact, hex; empty if it has no seal
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<StateSpec> states;
  std::vector<AliasSpec> aliases;
  std::vector<BucketSpec> buckets;
  std::vector<CropRule> crop;
  KernelKind kernel = KernelKind::kTorchScript;
  PadKernelSpec pad;  // when kernel == kPad
  KernelPlanSpec planning;
  bool has_preprocessor = false;
  bool checks_inputs = true;  // "accepts": "declared"
  // accepted[i][d]: sizes of dimension d of input i, meaningful when checks_inputs.
  std::vector<std::vector<DimRange>> accepted;
  std::vector<InputUseSpec> input_uses = {};  // one for each input; empty until it is loaded
  friend bool operator==(const ModelDescription&, const ModelDescription&) = default;
};

// Most buckets; most inputs, outputs and states each.
inline constexpr std::size_t kMaxBuckets = 256;
inline constexpr std::size_t kMaxTensors = 64;

// Whether the description contradicts itself: counts, ranks, sizes, indices of aliases and crop
// rules, names. What comes from an artifact or from another process passes here before use.
Status validate(const ModelDescription& model);

// Bytes of the largest bucket's inputs (outputs), every tensor rounded up to kTensorAlignment.
// Nothing if a size overflows.
std::optional<std::uint64_t> largest_input_bytes(const ModelDescription& model);
std::optional<std::uint64_t> largest_output_bytes(const ModelDescription& model);

// One tensor's signature, as a caller has it.
struct TensorSignature {
  DType dtype = DType::kFloat32;
  Shape shape;
  friend bool operator==(const TensorSignature&, const TensorSignature&) = default;
};

// Checks a caller's inputs against what the model accepts: count, dtype, rank, sizes. The status
// names model, input, dimension and limit:
//   OUT_OF_RANGE: model 'bert', input 0 'input_ids', dimension 1: size 513 is above the largest
//   bucket's 512
// Only count, rank <= kMaxRank and known dtype are checked when !model.checks_inputs.
Status check_inputs(const ModelDescription& model, std::span<const TensorSignature> inputs);

// The shape of output `output` as the caller gets it: the bucket's, with every crop rule applied to
// the caller's sizes. `start[d]` tells where the kept part begins.
struct CroppedShape {
  Shape shape;
  std::array<std::int64_t, kMaxRank> start{};
};
CroppedShape crop_output(const ModelDescription& model, std::size_t bucket, std::size_t output,
                         std::span<const TensorSignature> inputs);

}  // namespace bucketd
