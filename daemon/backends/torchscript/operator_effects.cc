#include "daemon/backends/torchscript/operator_effects.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "daemon/backends/torchscript/tensors.h"

namespace bucketd::torchscript {
namespace {

using torch::jit::Stack;

Status unplanned(const std::string& why) { return Status(StatusCode::kUnimplemented, why); }

// Calls `visit` with every tensor in `value`, also inside of lists and tuples.
template <typename Visit>
void visit_tensors(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) visit_tensors(element, visit);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) visit_tensors(element, visit);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      visit_tensors(entry.key(), visit);
      visit_tensors(entry.value(), visit);
    }
  }
}

bool all_constant(const c10::IValue& value, const TensorTape& tape) {
  bool all = true;
  visit_tensors(value, [&](const at::Tensor& tensor) { all = all && tape.is_constant(tensor); });
  return all;
}

// Of lists themselves these operators move elements; no element is looked into.
bool only_joins_lists(const std::string& kind, const Stack& arguments) {
  return joins_lists(kind) && !arguments.empty() && arguments[0].isList();
}

Status note_cat(const Stack& arguments, const at::Tensor& result, TensorTape& tape) {
  if (arguments.size() < 2 || !arguments[1].isInt()) return unplanned("it names dimensions");
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  const std::int64_t dim =
      arguments[1].toInt() < 0 ? arguments[1].toInt() + result.dim() : arguments[1].toInt();
  std::int64_t at = 0;
  for (const at::Tensor& part : arguments[0].toTensorVector()) {
    // LibTorch leaves an empty vector out, whatever the others are.
    if (part.dim() == 1 && part.numel() == 0) continue;
    const at::Tensor place = result.narrow(dim, at, part.size(dim));
    if (Status status = tape.copy(place, part); !status.ok()) return status;
    at += part.size(dim);
  }
  return Status();
}

Status note_stack(const Stack& arguments, const at::Tensor& result, TensorTape& tape) {
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  std::int64_t at = 0;
  for (const at::Tensor& part : arguments[0].toTensorVector()) {
    const at::Tensor place = result.select(arguments[1].toInt(), at++);
    if (Status status = tape.copy(place, part); !status.ok()) return status;
  }
  return Status();
}

// constant_pad_nd(self, pad, value), pad(self, pad, mode, value?)
Status note_pad(const std::string& kind, const Stack& arguments, const at::Tensor& result,
                TensorTape& tape) {
  const bool has_mode = kind == "aten::pad";
  if (has_mode && arguments[2].toStringRef() != "constant") {
    return unplanned("it pads by mode '" + arguments[2].toStringRef() + "'");
  }
  const c10::IValue& value = arguments[has_mode ? 3 : 2];
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  if (result.numel() == 0) return Status();
  const at::Tensor element =
      at::full({1}, value.isNone() ? at::Scalar(0) : value.toScalar(), result.options());
  std::uint64_t bits = 0;
  std::memcpy(&bits, element.data_ptr(), result.element_size());
  if (Status status = tape.fill(result, bits); !status.ok()) return status;
  at::Tensor to = result;
  at::Tensor from = arguments[0].toTensor();
  const std::vector<std::int64_t> amounts = arguments[1].toIntVector();
  for (std::size_t i = 0; i + 1 < amounts.size(); i += 2) {
    const std::int64_t dim = result.dim() - 1 - static_cast<std::int64_t>(i / 2);
    for (const bool is_before : {true, false}) {
      const std::int64_t amount = amounts[is_before ? i : i + 1];
      at::Tensor& longer = amount > 0 ? to : from;
      const std::int64_t cut = std::min(std::abs(amount), longer.size(dim));
      longer = longer.narrow(dim, is_before ? cut : 0, longer.size(dim) - cut);
    }
  }
  return tape.copy(to, from);
}

Status note_repeat(const Stack& arguments, const at::Tensor& result, TensorTape& tape) {
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  if (result.numel() == 0) return Status();
  at::Tensor from = arguments[0].toTensor();
  std::vector<std::int64_t> times = arguments[1].toIntVector();
  while (static_cast<std::int64_t>(times.size()) < from.dim()) times.insert(times.begin(), 1);
  while (from.dim() < static_cast<std::int64_t>(times.size())) from = from.unsqueeze(0);
  // Each dimension becomes two: which repetition, and the index within it.
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < times.size(); ++d) {
    sizes.push_back(times[d]);
    sizes.push_back(from.size(static_cast<std::int64_t>(2 * d)));
    from = from.unsqueeze(static_cast<std::int64_t>(2 * d));
  }
  return tape.copy(result.view(sizes), from);
}

// index_select(self, dim, index)
Status note_index_select(const Stack& arguments, const at::Tensor& result, TensorTape& tape) {
  constexpr std::int64_t kMostIndices = 1024;
  const at::Tensor from = arguments[0].toTensor();
  if (!arguments[1].isInt() || from.dim() == 0) return unplanned("plans do not know this form");
  const at::Tensor index = arguments[2].toTensor().to(at::kLong).contiguous().view({-1});
  if (index.numel() > kMostIndices) return unplanned("it selects too many indices");
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  const std::int64_t dim = arguments[1].toInt();
  const auto* indices = static_cast<const std::int64_t*>(index.data_ptr());
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    Status status = tape.copy(result.select(dim, i), from.select(dim, indices[i]));
    if (!status.ok()) return status;
  }
  return Status();
}

Status note_view_or_copy(const at::Tensor& from, const at::Tensor& result, TensorTape& tape) {
  if (tape.knows(result)) return Status();
  if (Status status = tape.add_unwritten(result); !status.ok()) return status;
  // What changes sizes and copies, makes its copy contiguous.
  const bool same_sizes = result.sizes() == from.sizes();
  if (!same_sizes && !result.is_contiguous()) return unplanned("its copy is not contiguous");
  return tape.copy(same_sizes ? result : result.view(from.sizes()), from);
}

Status note_new_constants(const Stack& results, TensorTape& tape) {
  Status status;
  for (const c10::IValue& value : results) {
    visit_tensors(value, [&](const at::Tensor& tensor) {
      if (!status.ok() || tape.knows(tensor)) return;
      status = is_plain_tensor(tensor) ? tape.add_constant(tensor)
                                       : unplanned("it gives " + signature_text(tensor));
    });
  }
  return status;
}

}  // namespace

bool is_plain_tensor(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && tensor.is_cpu() && !tensor.is_neg() &&
         !tensor.is_conj() && dtype_of(tensor.scalar_type()).has_value();
}

Status check_arguments(const std::string& kind, OperatorRule rule, const Stack& arguments,
                       const TensorTape& tape) {
  const auto must_be_known = [&](const c10::IValue& value) {
    if (all_constant(value, tape)) return Status();
    return unplanned("it reads numbers of an input");
  };
  switch (rule) {
    case OperatorRule::kComputes:
      if (only_joins_lists(kind, arguments)) return Status();
      for (const c10::IValue& argument : arguments) {
        if (Status status = must_be_known(argument); !status.ok()) return status;
      }
      return Status();
    case OperatorRule::kViews:
      if (kind.back() == '_' && tape.outlives_run(arguments[0].toTensor())) {
        return unplanned("it changes a constant of the graph");
      }
      for (std::size_t i = 1; i < arguments.size() && reads_later_tensors(kind); ++i) {
        if (Status status = must_be_known(arguments[i]); !status.ok()) return status;
      }
      return Status();
    case OperatorRule::kIndexSelect:
      return must_be_known(arguments[2]);
    case OperatorRule::kFillInPlace:
      return arguments.size() < 2 ? Status() : must_be_known(arguments[1]);
    default:
      return Status();
  }
}

Status note_effects(const std::string& kind, OperatorRule rule, const Stack& arguments,
                    const Stack& results, TensorTape& tape) {
  for (const c10::IValue& value : results) {
    if (value.isTensor() && (!value.toTensor().defined() || !is_plain_tensor(value.toTensor()))) {
      return unplanned("it gives " + signature_text(value.toTensor()));
    }
  }
  const auto result = [&results] { return results[0].toTensor(); };
  switch (rule) {
    case OperatorRule::kComputes:
      // In place it would change numbers that were taken note of.
      if (only_joins_lists(kind, arguments)) return Status();
      if (kind == "aten::add_" && arguments[0].isTensor()) {
        return unplanned("it computes in place");
      }
      return note_new_constants(results, tape);
    case OperatorRule::kMakes:
      return note_new_constants(results, tape);
    case OperatorRule::kMakesUnwritten:
      return tape.add_unwritten(result());
    case OperatorRule::kContains:
    case OperatorRule::kLooks:
      return Status();
    case OperatorRule::kViews: {
      Status status;
      for (const c10::IValue& value : results) {
        visit_tensors(value, [&](const at::Tensor& tensor) {
          if (!tape.knows(tensor)) status = unplanned("it gives no view");
          if (arguments[0].isTensor() &&
              tensor.scalar_type() != arguments[0].toTensor().scalar_type()) {
            status = unplanned("it views memory as another dtype");
          }
        });
      }
      return status;
    }
    case OperatorRule::kViewsOrCopies:
      return note_view_or_copy(arguments[0].toTensor(), result(), tape);
    case OperatorRule::kCat:
      return note_cat(arguments, result(), tape);
    case OperatorRule::kStack:
      return note_stack(arguments, result(), tape);
    case OperatorRule::kPad:
      return note_pad(kind, arguments, result(), tape);
    case OperatorRule::kRepeat:
      return note_repeat(arguments, result(), tape);
    case OperatorRule::kIndexSelect:
      return note_index_select(arguments, result(), tape);
    case OperatorRule::kCopyInPlace:
      return tape.copy(arguments[0].toTensor(), arguments[1].toTensor());
    case OperatorRule::kFillInPlace:
      return tape.write_constant(arguments[0].toTensor());
  }
  return unplanned("plans know no such operator");
}

}  // namespace bucketd::torchscript
