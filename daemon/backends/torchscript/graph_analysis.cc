#include "daemon/backends/torchscript/graph_analysis.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <unordered_set>

namespace bucketd::torchscript {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

// Whether values of the type are numbers, texts, and lists of such.
bool holds_no_tensor(const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::NoneType:
    case c10::TypeKind::DeviceObjType:
      return true;
    case c10::TypeKind::ListType:
    case c10::TypeKind::DictType:
    case c10::TypeKind::TupleType:
    case c10::TypeKind::OptionalType: {
      const auto inner = type->containedTypes();
      return std::all_of(inner.begin(), inner.end(), holds_no_tensor);
    }
    default:
      return false;
  }
}

// What an attribute of the graph's `self` is, however deep; nothing if `value` is something else.
std::optional<c10::IValue> attribute_value(const Value* value, const Value* self_value,
                                           const c10::IValue& self) {
  if (value == self_value) return self;
  if (value->node()->kind() != c10::prim::GetAttr) return std::nullopt;
  const std::optional<c10::IValue> holder =
      attribute_value(value->node()->input(0), self_value, self);
  if (!holder || !holder->isObject()) return std::nullopt;
  return holder->toObject()->getAttr(value->node()->s(c10::attr::name));
}

// What an attribute of the graph's `self` or a constant is.
std::optional<c10::IValue> kept_value(const Value* value, const Value* self_value,
                                      const c10::IValue& self) {
  if (value->node()->kind() == c10::prim::GetAttr) return attribute_value(value, self_value, self);
  if (auto constant = torch::jit::toIValue(value)) return *constant;
  return std::nullopt;
}

// Operators without a schema of which it is known that they write into no tensor.
bool only_builds(const Node* node) {
  static const std::unordered_set<std::string_view> kKinds = {
      "prim::Constant",       "prim::GetAttr",       "prim::SetAttr",        "prim::If",
      "prim::Loop",           "prim::ListConstruct", "prim::ListUnpack",     "prim::TupleConstruct",
      "prim::TupleUnpack",    "prim::TupleIndex",    "prim::TupleSlice",     "prim::DictConstruct",
      "prim::RaiseException", "prim::Uninitialized", "prim::unchecked_cast", "prim::isinstance",
      "prim::Print"};
  return kKinds.contains(node->kind().toQualString());
}

// A list that the graph itself makes: writing into it changes which tensors are in it, not these.
bool is_fresh_list(const Value* value) {
  return value->type()->kind() == c10::TypeKind::ListType &&
         value->node()->kind() == c10::prim::ListConstruct;
}

// The attributes and constants that the tensor `value` is or views; none if it is an argument of
// the graph, or memory that an operator made. False when that cannot be told.
bool find_origins(const Value* value, const Graph* graph, std::vector<const Value*>& origins) {
  const Node* node = value->node();
  if (node->kind() == c10::prim::GetAttr || node->kind() == c10::prim::Constant) {
    origins.push_back(value);
    return true;
  }
  if (node == graph->block()->param_node()) return true;
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (schema == nullptr || value->offset() >= schema->returns().size()) return false;
  const c10::AliasInfo* alias = schema->returns()[value->offset()].alias_info();
  if (alias == nullptr) return true;
  if (alias->isWildcardAfter()) return false;
  for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
    if (schema->arguments()[i].alias_info() == nullptr) continue;
    if (!find_origins(node->input(i), graph, origins)) return false;
  }
  return true;
}

// Gives a view of its first argument, or a property of it that is not a value.
bool looks_at_shape_only(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {
      "aten::slice",   "aten::narrow",    "aten::select",  "aten::view",         "aten::transpose",
      "aten::permute", "aten::unsqueeze", "aten::squeeze", "aten::alias",        "aten::expand",
      "aten::detach",  "aten::size",      "aten::dim",     "aten::numel",        "aten::len",
      "aten::stride",  "prim::dtype",     "prim::device",  "aten::is_contiguous"};
  return kKinds.contains(kind);
}

// Arithmetic and control on Python's own values.
bool is_plain(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {"prim::Constant",
                                                              "prim::If",
                                                              "prim::Loop",
                                                              "prim::ListConstruct",
                                                              "prim::ListUnpack",
                                                              "prim::TupleConstruct",
                                                              "prim::TupleUnpack",
                                                              "prim::TupleIndex",
                                                              "prim::Uninitialized",
                                                              "prim::RaiseException",
                                                              "prim::min",
                                                              "prim::max",
                                                              "prim::unchecked_cast",
                                                              "aten::add",
                                                              "aten::sub",
                                                              "aten::mul",
                                                              "aten::neg",
                                                              "aten::floordiv",
                                                              "aten::remainder",
                                                              "aten::lt",
                                                              "aten::le",
                                                              "aten::gt",
                                                              "aten::ge",
                                                              "aten::eq",
                                                              "aten::ne",
                                                              "aten::__not__",
                                                              "aten::__and__",
                                                              "aten::__or__",
                                                              "aten::__is__",
                                                              "aten::__isnot__",
                                                              "aten::len",
                                                              "aten::__range_length",
                                                              "aten::__derive_index",
                                                              "aten::list",
                                                              "aten::format",
                                                              "aten::str"};
  return kKinds.contains(kind);
}

// On lists of tensors these move tensors about and look into none.
bool handles_lists(std::string_view kind) {
  static const std::unordered_set<std::string_view> kKinds = {"aten::append", "aten::__getitem__",
                                                              "aten::insert", "aten::_set_item"};
  return kKinds.contains(kind);
}

bool has_tensor_input(const Node* node) {
  for (const Value* input : node->inputs()) {
    if (input->type()->isSubtypeOf(*c10::TensorType::get())) return true;
  }
  return false;
}

bool gives_tensors(const Node* node) {
  for (const Value* output : node->outputs()) {
    if (output->type()->isSubtypeOf(*c10::TensorType::get()) ||
        output->type()->isSubtypeOf(*c10::ListType::ofTensors())) {
      return true;
    }
  }
  return false;
}

// Whether `value` is the graph's input `index` or a view of it.
bool is_index(const Value* value, const Value* index) {
  while (value != index && value->node()->inputs().size() > 0 &&
         looks_at_shape_only(value->node()->kind().toQualString())) {
    value = value->node()->input(0);
  }
  return value == index;
}

bool reads_value(std::string_view kind) {
  return kind == "aten::Int" || kind == "aten::IntImplicit" || kind == "aten::item";
}

// `index`: the graph's input that holds the bucket index, whose value may be read.
bool is_static_node(const Node* node, const Value* index) {
  const std::string_view kind = node->kind().toQualString();
  if (reads_value(kind)) {
    const Value* input = node->input(0);
    return is_index(input, index) || !input->type()->isSubtypeOf(*c10::TensorType::get());
  }
  if (looks_at_shape_only(kind) || handles_lists(kind)) return true;
  if (!is_plain(kind)) return false;
  const bool only_builds = kind.starts_with("prim::");
  return only_builds || !has_tensor_input(node);
}

}  // namespace

std::shared_ptr<Graph> inlined_graph(const torch::jit::Function& function) {
  std::shared_ptr<Graph> graph = torch::jit::toGraphFunction(function).graph()->copy();
  torch::jit::Inline(*graph);
  return graph;
}

std::vector<bool> written_arguments(const torch::jit::Function& function) {
  const std::shared_ptr<Graph> graph = inlined_graph(function);
  const torch::jit::AliasDb aliases(graph);
  std::vector<bool> written;
  for (std::size_t i = 1; i < graph->inputs().size(); ++i) {
    written.push_back(aliases.hasWriters(graph->inputs()[i]));
  }
  return written;
}

// Not by LibTorch's alias analysis: to that all attributes and arguments may be one another, so
// that a bucket which writes its states would seem to write its weights.
std::optional<std::vector<at::Tensor>> written_kept_tensors(const torch::jit::Function& function,
                                                            const c10::IValue& self) {
  const std::shared_ptr<Graph> graph = inlined_graph(function);
  std::vector<at::Tensor> written;
  bool is_known = true;
  visit_nodes(graph->block(), [&](const Node* node) {
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (schema == nullptr) {
      is_known = is_known && only_builds(node);
      return;
    }
    for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
      const bool writes_tensor =
          alias != nullptr && alias->isWrite() && !holds_no_tensor(node->input(i)->type());
      if (!writes_tensor) continue;
      // Lists are memory of their own; which tensors are in them is not followed.
      std::vector<const Value*> origins;
      if (!node->input(i)->type()->isSubtypeOf(*c10::TensorType::get()) ||
          !find_origins(node->input(i), graph.get(), origins)) {
        is_known = is_known && is_fresh_list(node->input(i));
        continue;
      }
      for (const Value* origin : origins) {
        const std::optional<c10::IValue> value = kept_value(origin, graph->inputs()[0], self);
        if (value && value->isTensor()) {
          written.push_back(value->toTensor());
        } else {
          is_known = false;
        }
      }
    }
  });
  if (!is_known) return std::nullopt;
  return written;
}

PreprocessorAnalysis analyse_preprocessor(const torch::jit::Function& function) {
  const std::shared_ptr<Graph> graph = inlined_graph(function);
  const Value* index = graph->inputs().back();
  PreprocessorAnalysis analysis;
  visit_nodes(graph->block(), [&](const Node* node) {
    if (is_static_node(node, index)) return;
    const std::string kind = node->kind().toQualString();
    const bool gives = gives_tensors(node);
    if (analysis.reason.empty()) {
      analysis.reason =
          gives ? "it does more than slice (" + kind + ")" : "it reads values (" + kind + ")";
    }
    if (gives && has_tensor_input(node) && analysis.copying_operator.empty()) {
      analysis.copying_operator = kind;
    }
  });
  analysis.is_static = analysis.reason.empty();
  return analysis;
}

std::vector<at::Tensor> graph_constants(const torch::jit::Module& module) {
  std::vector<at::Tensor> constants;
  for (const torch::jit::Module& part : module.modules()) {
    for (const torch::jit::Method& method : part.get_methods()) {
      const std::shared_ptr<Graph> graph = torch::jit::toGraphFunction(method.function()).graph();
      visit_nodes(graph->block(), [&](const Node* node) {
        if (node->kind() == c10::prim::Constant && node->hasAttribute(c10::attr::value) &&
            node->kindOf(c10::attr::value) == torch::jit::AttributeKind::t) {
          constants.push_back(node->t(c10::attr::value));
        }
      });
    }
  }
  return constants;
}

}  // namespace bucketd::torchscript
