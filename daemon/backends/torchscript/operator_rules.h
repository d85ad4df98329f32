// Which operators a kernel may use and still have plans: an allow-list. What is not on it makes a
// kernel unplanned.
//
// Thread safety: functions without state.
#pragma once

#include <optional>
#include <string_view>

namespace bucketd::torchscript {

// What an operator does to tensors, as far as plans are concerned.
enum class OperatorRule {
  // Computes: numbers, texts, lists of them. Of tensors only with those whose numbers are known.
  kComputes,
  // Moves values about in lists and dictionaries, whatever they are.
  kContains,
  // Looks at sizes, strides, dtype, device.
  kLooks,
  // Gives views, or changes the view that a tensor is.
  kViews,
  // Gives the tensor itself, a view, or a copy, with the elements in the same order.
  kViewsOrCopies,
  // Makes tensors of one number; of other tensors it only looks at sizes and the like.
  kMakes,
  // Makes tensors that hold anything.
  kMakesUnwritten,
  // The rest has its own ways.
  kCat,
  kStack,
  kPad,
  kRepeat,
  kIndexSelect,
  kCopyInPlace,
  kFillInPlace,
};

// `kind`: "aten::cat". Nothing if it is not on the list.
std::optional<OperatorRule> operator_rule(std::string_view kind);

// Whether an operator of rule kComputes makes a list of two lists, or appends one to the other,
// when it is given lists.
bool joins_lists(std::string_view kind);

// Whether an operator of rule kViews reads a number out of tensors after the first.
bool reads_later_tensors(std::string_view kind);

}  // namespace bucketd::torchscript
