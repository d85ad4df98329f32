#include "daemon/backends/torchscript/kernel_recorder.h"

#include <cstring>
#include <string>
#include <utility>

#include "daemon/backends/torchscript/graph_analysis.h"
#include "daemon/backends/torchscript/libtorch_errors.h"
#include "daemon/backends/torchscript/operator_effects.h"
#include "daemon/backends/torchscript/operator_rules.h"
#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;

namespace {

std::string kind_of(const Node* node) { return node->kind().toQualString(); }

Status unplanned(const Node* node, const std::string& why) {
  return Status(StatusCode::kUnimplemented, kind_of(node) + ": " + why);
}

Status raised(const std::string& what) { return Status(StatusCode::kInvalidArgument, what); }

}  // namespace

// One run of the kernel.
class KernelRun {
 public:
  explicit KernelRun(const KernelRecorder& recorder) : recorder_(recorder) {}

  Result<KernelRecording> run(const std::vector<at::Tensor>& inputs) {
    c10::List<at::Tensor> list;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      // A tensor of its own on the same memory: the kernel may change how it views it.
      const at::Tensor input = inputs[i].alias();
      if (Status status = tape_.add_input(static_cast<std::uint32_t>(i), input); !status.ok()) {
        return error(std::move(status));
      }
      list.push_back(input);
    }
    const Block* block = recorder_.graph_->block();
    if (block->inputs().size() > 1) values_[block->inputs()[0]] = recorder_.self_;
    values_[block->inputs()[block->inputs().size() - 1]] = std::move(list);
    if (Status status = run_block(block); !status.ok()) return error(std::move(status));
    return finish(value_of(block->outputs()[0]));
  }

 private:
  const c10::IValue& value_of(const Value* value) { return values_[value]; }

  Status run_block(const Block* block) {
    for (const Node* node : block->nodes()) {
      if (++steps_ > KernelRecorder::kMaxSteps) {
        return unplanned(node, "the kernel takes more than " +
                                   std::to_string(KernelRecorder::kMaxSteps) + " steps");
      }
      if (Status status = run_node(node); !status.ok()) return status;
    }
    return Status();
  }

  Status run_node(const Node* node) {
    switch (node->kind()) {
      case c10::prim::Constant:
        return run_constant(node);
      case c10::prim::If:
        return run_if(node);
      case c10::prim::Loop:
        return run_loop(node);
      case c10::prim::RaiseException:
        return raised("the kernel raises an exception");
      case c10::prim::Uninitialized:
        return give(node, c10::IValue());
      case c10::prim::ListConstruct:
      case c10::prim::TupleConstruct:
      case c10::prim::DictConstruct:
        return give(node, constructed(node));
      case c10::prim::TupleIndex:
      case c10::prim::TupleUnpack:
      case c10::prim::ListUnpack:
        return take_apart(node);
      case c10::prim::unchecked_cast:
        return give(node, value_of(node->input(0)));
      case c10::aten::_unwrap_optional:
      case c10::prim::unchecked_unwrap_optional:
        if (value_of(node->input(0)).isNone()) return raised("the kernel unwraps None");
        return give(node, value_of(node->input(0)));
      case c10::prim::GetAttr: {
        const c10::IValue value =
            value_of(node->input(0)).toObject()->getAttr(node->s(c10::attr::name));
        if (!value.isModule()) {
          return unplanned(node, "it uses an attribute of the module, which may change");
        }
        return give(node, value);
      }
      default:
        return run_operator(node);
    }
  }

  Status give(const Node* node, c10::IValue value) {
    values_[node->output()] = std::move(value);
    return Status();
  }

  Status run_constant(const Node* node) {
    // Functions that were inlined are left behind as constants.
    if (!node->output()->hasUses()) return Status();
    std::optional<c10::IValue> value;
    // LibTorch 1.13 has an optional of its own.
    if (auto constant = torch::jit::toIValue(node->output())) value = *constant;
    if (!value) return unplanned(node, "a constant of an unknown kind");
    const bool is_container = value->isList() || value->isTuple() || value->isGenericDict();
    if (!value->isTensor() || !value->toTensor().defined()) {
      return give(node, is_container ? value->deepcopy() : *value);
    }
    const at::Tensor kept = value->toTensor();
    if (!is_plain_tensor(kept)) return unplanned(node, "a tensor " + signature_text(kept));
    const at::Tensor tensor = kept.clone();
    if (Status status = tape_.add_kept_constant(tensor); !status.ok()) {
      return unplanned(node, status.message());
    }
    return give(node, tensor);
  }

  Status run_if(const Node* node) {
    const bool condition = value_of(node->input(0)).toBool();
    const Block* block = node->blocks()[condition ? 0 : 1];
    if (Status status = run_block(block); !status.ok()) return status;
    for (std::size_t i = 0; i < node->outputs().size(); ++i) {
      values_[node->outputs()[i]] = value_of(block->outputs()[i]);
    }
    return Status();
  }

  Status run_loop(const Node* node) {
    const Block* body = node->blocks()[0];
    const std::int64_t most = value_of(node->input(0)).toInt();
    bool goes_on = value_of(node->input(1)).toBool();
    std::vector<c10::IValue> carried;
    for (std::size_t i = 2; i < node->inputs().size(); ++i) {
      carried.push_back(value_of(node->input(i)));
    }
    for (std::int64_t trip = 0; trip < most && goes_on; ++trip) {
      values_[body->inputs()[0]] = trip;
      for (std::size_t i = 0; i < carried.size(); ++i) values_[body->inputs()[i + 1]] = carried[i];
      if (++steps_ > KernelRecorder::kMaxSteps) {
        return unplanned(node, "the kernel takes more than " +
                                   std::to_string(KernelRecorder::kMaxSteps) + " steps");
      }
      if (Status status = run_block(body); !status.ok()) return status;
      goes_on = value_of(body->outputs()[0]).toBool();
      for (std::size_t i = 0; i < carried.size(); ++i)
        carried[i] = value_of(body->outputs()[i + 1]);
    }
    for (std::size_t i = 0; i < carried.size(); ++i) values_[node->outputs()[i]] = carried[i];
    return Status();
  }

  c10::IValue constructed(const Node* node) {
    std::vector<c10::IValue> elements;
    for (const Value* input : node->inputs()) elements.push_back(value_of(input));
    if (node->kind() == c10::prim::TupleConstruct) {
      return c10::ivalue::Tuple::create(std::move(elements));
    }
    const c10::TypePtr type = node->output()->type();
    if (node->kind() == c10::prim::ListConstruct) {
      c10::impl::GenericList list(type->expectRef<c10::ListType>().getElementType());
      for (c10::IValue& element : elements) list.push_back(std::move(element));
      return list;
    }
    const auto& dict_type = type->expectRef<c10::DictType>();
    c10::impl::GenericDict dict(dict_type.getKeyType(), dict_type.getValueType());
    for (std::size_t i = 0; i + 1 < elements.size(); i += 2) {
      dict.insert_or_assign(elements[i], elements[i + 1]);
    }
    return dict;
  }

  Status take_apart(const Node* node) {
    const c10::IValue whole = value_of(node->input(0));
    if (node->kind() == c10::prim::TupleIndex) {
      const auto& elements = whole.toTupleRef().elements();
      std::int64_t index = value_of(node->input(1)).toInt();
      const auto size = static_cast<std::int64_t>(elements.size());
      if (index < 0) index += size;
      if (index < 0 || index >= size) return raised("a tuple index is out of range");
      return give(node, elements[static_cast<std::size_t>(index)]);
    }
    std::vector<c10::IValue> elements;
    if (whole.isTuple()) {
      for (const c10::IValue& element : whole.toTupleRef().elements()) elements.push_back(element);
    } else {
      for (const c10::IValue& element : whole.toList()) elements.push_back(element);
    }
    if (elements.size() != node->outputs().size()) {
      return raised("the kernel unpacks a list of another length");
    }
    for (std::size_t i = 0; i < elements.size(); ++i) values_[node->outputs()[i]] = elements[i];
    return Status();
  }

  Status run_operator(const Node* node) {
    const std::string kind = kind_of(node);
    const auto operation = recorder_.operations_.find(node);
    const std::optional<OperatorRule> rule = operator_rule(kind);
    if (!rule || operation == recorder_.operations_.end()) {
      return unplanned(node, "plans know no such operator");
    }
    Stack stack;
    for (const Value* input : node->inputs()) stack.push_back(value_of(input));
    const Stack arguments = stack;
    if (Status status = check_arguments(kind, *rule, arguments, tape_); !status.ok()) {
      return unplanned(node, status.message());
    }
    torch::jit::Operation run = operation->second;
    run(stack);
    if (Status status = note_effects(kind, *rule, arguments, stack, tape_); !status.ok()) {
      return unplanned(node, status.message());
    }
    if (stack.size() != node->outputs().size()) {
      return unplanned(node, "it gives another number of values than its graph says");
    }
    for (std::size_t i = 0; i < stack.size(); ++i) values_[node->outputs()[i]] = stack[i];
    return Status();
  }

  Result<KernelRecording> finish(const c10::IValue& result) {
    const auto misfit = [](const std::string& what) {
      return error(StatusCode::kInternal, "the kernel " + what);
    };
    if (!result.isTuple() || result.toTupleRef().elements().size() != 2 ||
        !result.toTupleRef().elements()[0].isTensorList() ||
        !result.toTupleRef().elements()[1].isTensor()) {
      return misfit("does not give a list of tensors and an index tensor");
    }
    KernelRecording recording;
    recording.results = result.toTupleRef().elements()[0].toTensorVector();
    if (recording.results.empty()) {
      return error(StatusCode::kOutOfRange, "the kernel finds no bucket");
    }
    const at::Tensor& index = result.toTupleRef().elements()[1].toTensor();
    if (!index.defined() || index.numel() != 1 ||
        !at::isIntegralType(index.scalar_type(), /*includeBool=*/false)) {
      return misfit("does not give one integer as index");
    }
    if (!tape_.is_constant(index)) {
      return error(StatusCode::kUnimplemented,
                   "the index is a number of an input, and plans look into none");
    }
    const auto bucket = index.item<std::int64_t>();
    if (bucket < 0) return misfit("chose bucket " + std::to_string(bucket));
    recording.bucket = static_cast<std::size_t>(bucket);
    for (std::size_t i = 0; i < recording.results.size(); ++i) {
      const at::Tensor& tensor = recording.results[i];
      if (!tensor.defined() || !is_plain_tensor(tensor)) return misfit("gives no plain tensor");
      if (Status status = tape_.add_output(static_cast<std::uint32_t>(i), tensor); !status.ok()) {
        return error(std::move(status));
      }
    }
    recording.moves = tape_.take();
    return recording;
  }

  const KernelRecorder& recorder_;
  TensorTape tape_;
  std::unordered_map<const Value*, c10::IValue> values_;
  std::size_t steps_ = 0;
};

KernelRecorder::KernelRecorder(const torch::jit::Function& kernel, c10::IValue self)
    : graph_(inlined_graph(kernel)), self_(std::move(self)) {
  visit_nodes(graph_->block(), [this](const Node* node) {
    if (!operator_rule(node->kind().toQualString())) return;
    if (node->maybeOperator() != nullptr) operations_.emplace(node, node->getOperation());
  });
}

Result<KernelRecording> KernelRecorder::record(const std::vector<at::Tensor>& inputs) const {
  try {
    return KernelRun(*this).run(inputs);
  } catch (...) {
    return error(status_from_libtorch("the kernel fails", StatusCode::kInvalidArgument));
  }
}

}  // namespace bucketd::torchscript
