#include "daemon/backends/torchscript/input_use.h"

#include <memory>
#include <string_view>
#include <unordered_set>

#include "daemon/backends/torchscript/graph_analysis.h"

namespace bucketd::torchscript {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Use;
using torch::jit::Value;

// Reads each element as a number, and makes a tensor of its own.
bool is_arithmetic(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {
      // products and convolutions
      "aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::addmm",
      "aten::baddbmm", "aten::addmv", "aten::linear", "aten::einsum", "aten::conv1d",
      "aten::conv2d", "aten::conv3d", "aten::convolution", "aten::_convolution",
      "aten::conv_transpose1d", "aten::conv_transpose2d",
      // element by element
      "aten::add", "aten::sub", "aten::rsub", "aten::mul", "aten::div", "aten::neg", "aten::abs",
      "aten::exp", "aten::log", "aten::log1p", "aten::expm1", "aten::sqrt", "aten::rsqrt",
      "aten::square", "aten::reciprocal", "aten::pow", "aten::sin", "aten::cos", "aten::tanh",
      "aten::sigmoid", "aten::relu", "aten::gelu", "aten::silu", "aten::elu", "aten::leaky_relu",
      "aten::hardtanh", "aten::hardswish", "aten::hardsigmoid", "aten::softplus", "aten::erf",
      "aten::clamp", "aten::clamp_min", "aten::clamp_max", "aten::minimum", "aten::maximum",
      "aten::round", "aten::floor", "aten::ceil", "aten::addcmul", "aten::addcdiv", "aten::lerp",
      "aten::gt", "aten::ge", "aten::lt", "aten::le", "aten::eq", "aten::ne",
      // sums along dimensions
      "aten::sum", "aten::mean", "aten::var", "aten::std", "aten::amax", "aten::amin",
      "aten::softmax", "aten::_softmax", "aten::log_softmax", "aten::layer_norm",
      "aten::batch_norm", "aten::group_norm", "aten::instance_norm", "aten::cumsum",
      "aten::avg_pool1d", "aten::avg_pool2d", "aten::adaptive_avg_pool2d",
      // moves
      "aten::clone", "aten::cat", "aten::stack", "aten::constant_pad_nd", "aten::pad",
      "aten::repeat", "aten::flip", "aten::roll"};
  return kKinds.contains(kind);
}

// May give the very memory of its first argument, and does not look at elements.
bool may_give_view(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {
      "aten::view",       "aten::reshape",    "aten::flatten",   "aten::slice",   "aten::select",
      "aten::narrow",     "aten::permute",    "aten::transpose", "aten::t",       "aten::unsqueeze",
      "aten::squeeze",    "aten::expand",     "aten::expand_as", "aten::alias",   "aten::detach",
      "aten::contiguous", "aten::to",         "aten::type_as",   "aten::dropout", "aten::view_as",
      "aten::unflatten",  "aten::chunk",      "aten::split",     "aten::unbind",  "aten::movedim",
      "prim::ListUnpack", "prim::TupleUnpack"};
  return kKinds.contains(kind);
}

bool looks_at_shape(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {
      "aten::size",  "aten::dim",    "aten::numel",      "aten::len", "aten::is_floating_point",
      "prim::dtype", "prim::device", "prim::NumToTensor"};
  return kKinds.contains(kind);
}

// Whether every user of `value` may read the client's memory; else `reason` names the first that
// may not.
class Uses {
 public:
  // Null: nothing stands against it.
  const Node* first_against(const Value* value) {
    if (!seen_.insert(value).second) return nullptr;
    for (const Use& use : value->uses()) {
      if (const Node* against = against_use(use)) return against;
    }
    return nullptr;
  }

 private:
  const Node* against_use(const Use& use) {
    const Node* node = use.user;
    const std::string_view kind = node->kind().toQualString();
    // What a bucket returns is copied once.
    const bool is_end = kind == "prim::Return" && node->owningBlock()->owningNode() == nullptr;
    if (is_end || is_arithmetic(kind) || looks_at_shape(kind)) return nullptr;
    const bool passes_on = (may_give_view(kind) && use.offset == 0) ||
                           kind == "prim::ListConstruct" || kind == "prim::TupleConstruct";
    if (!passes_on) return node;
    for (const Value* output : node->outputs()) {
      if (const Node* against = first_against(output)) return against;
    }
    return nullptr;
  }

  std::unordered_set<const Value*> seen_;
};

}  // namespace

std::vector<std::string> reasons_to_copy(const torch::jit::Function& function) {
  const std::shared_ptr<Graph> graph = inlined_graph(function);
  const torch::jit::AliasDb aliases(graph);
  std::vector<std::string> reasons;
  for (std::size_t i = 1; i < graph->inputs().size(); ++i) {
    const Value* argument = graph->inputs()[i];
    std::string& reason = reasons.emplace_back();
    if (aliases.hasWriters(argument)) {
      reason = "the bucket may write into it";
    } else if (const Node* against = Uses().first_against(argument)) {
      reason = std::string(against->kind().toQualString()) + " takes it";
    }
  }
  return reasons;
}

}  // namespace bucketd::torchscript
