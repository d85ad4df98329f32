#include "daemon/backends/torchscript/operator_rules.h"

#include <initializer_list>
#include <unordered_map>

namespace bucketd::torchscript {
namespace {

using Rules = std::unordered_map<std::string_view, OperatorRule>;

Rules make_rules() {
  Rules rules;
  const auto add = [&rules](OperatorRule rule, std::initializer_list<std::string_view> kinds) {
    for (const std::string_view kind : kinds) rules.emplace(kind, rule);
  };
  // No operator that draws numbers, keeps state, writes files or looks at the clock is here.
  add(OperatorRule::kComputes, {"aten::add",
                                "aten::add_",
                                "aten::sub",
                                "aten::mul",
                                "aten::div",
                                "aten::floordiv",
                                "aten::floor_divide",
                                "aten::true_divide",
                                "aten::remainder",
                                "aten::fmod",
                                "aten::pow",
                                "aten::neg",
                                "aten::abs",
                                "aten::lt",
                                "aten::le",
                                "aten::gt",
                                "aten::ge",
                                "aten::eq",
                                "aten::ne",
                                "aten::__and__",
                                "aten::__or__",
                                "aten::__xor__",
                                "aten::__not__",
                                "aten::__is__",
                                "aten::__isnot__",
                                "aten::__lshift__",
                                "aten::__rshift__",
                                "aten::logical_and",
                                "aten::logical_or",
                                "aten::logical_not",
                                "aten::bitwise_and",
                                "aten::bitwise_or",
                                "aten::bitwise_not",
                                "aten::min",
                                "aten::max",
                                "prim::min",
                                "prim::max",
                                "prim::abs",
                                "aten::minimum",
                                "aten::maximum",
                                "aten::clamp",
                                "aten::sum",
                                "aten::prod",
                                "aten::any",
                                "aten::all",
                                "aten::argmax",
                                "aten::argmin",
                                "aten::cumsum",
                                "aten::ceil",
                                "aten::floor",
                                "aten::round",
                                "aten::trunc",
                                "aten::sqrt",
                                "aten::log",
                                "aten::log2",
                                "aten::log10",
                                "aten::exp",
                                "aten::gcd",
                                "aten::divmod",
                                "aten::where",
                                "aten::isnan",
                                "aten::isinf",
                                "aten::isfinite",
                                "aten::Int",
                                "aten::Float",
                                "aten::Bool",
                                "aten::item",
                                "aten::IntImplicit",
                                "aten::FloatImplicit",
                                "aten::ScalarImplicit",
                                "aten::is_nonzero",
                                "aten::equal",
                                "aten::tensor",
                                "aten::scalar_tensor",
                                "aten::as_tensor",
                                "aten::arange",
                                "aten::linspace",
                                "aten::eye",
                                "prim::NumToTensor",
                                "aten::__range_length",
                                "aten::__derive_index",
                                "aten::str",
                                "aten::format",
                                "aten::percentFormat",
                                "aten::ord",
                                "aten::chr",
                                "aten::lower",
                                "aten::upper",
                                "aten::startswith",
                                "aten::endswith",
                                "aten::strip",
                                "aten::join",
                                "aten::replace",
                                "aten::find",
                                "aten::isdigit",
                                "aten::sorted",
                                "aten::sort",
                                "aten::__contains__",
                                "aten::index",
                                "aten::count",
                                "aten::remove",
                                "aten::nonzero",
                                "aten::__round_to_zero_floordiv"});
  add(OperatorRule::kContains,
      {"aten::__getitem__", "aten::append", "aten::insert", "aten::extend", "aten::pop",
       "aten::clear", "aten::reverse", "aten::_set_item", "aten::Delete", "aten::list",
       "aten::copy", "aten::keys", "aten::values", "aten::items", "aten::get"});
  add(OperatorRule::kLooks,
      {"aten::size",           "aten::dim",           "aten::ndimension",
       "aten::numel",          "aten::len",           "aten::stride",
       "aten::storage_offset", "aten::is_contiguous", "aten::is_floating_point",
       "aten::is_complex",     "aten::is_signed",     "aten::element_size",
       "aten::is_same_size",   "aten::result_type",   "prim::dtype",
       "prim::device",         "prim::layout",        "prim::is_cuda",
       "prim::is_cpu",         "prim::is_sparse",     "prim::is_meta",
       "prim::requires_grad",  "prim::shape"});
  add(OperatorRule::kViews, {"aten::alias",        "aten::detach",
                             "aten::view",         "aten::view_as",
                             "aten::expand",       "aten::expand_as",
                             "aten::broadcast_to", "aten::broadcast_tensors",
                             "aten::transpose",    "aten::t",
                             "aten::numpy_T",      "aten::permute",
                             "aten::movedim",      "aten::moveaxis",
                             "aten::swapaxes",     "aten::swapdims",
                             "aten::select",       "aten::narrow",
                             "aten::slice",        "aten::unsqueeze",
                             "aten::squeeze",      "aten::diagonal",
                             "aten::unfold",       "aten::as_strided",
                             "aten::split",        "aten::split_with_sizes",
                             "aten::chunk",        "aten::tensor_split",
                             "aten::unbind",       "aten::unflatten",
                             "aten::unsqueeze_",   "aten::squeeze_",
                             "aten::t_",           "aten::transpose_",
                             "prim::data"});
  add(OperatorRule::kViewsOrCopies,
      {"aten::to", "aten::type_as", "aten::contiguous", "aten::clone", "aten::reshape",
       "aten::reshape_as", "aten::flatten", "aten::ravel", "aten::cpu"});
  add(OperatorRule::kMakes,
      {"aten::zeros", "aten::ones", "aten::full", "aten::zeros_like", "aten::ones_like",
       "aten::full_like", "aten::new_zeros", "aten::new_ones", "aten::new_full"});
  add(OperatorRule::kMakesUnwritten, {"aten::empty", "aten::empty_like", "aten::new_empty",
                                      "aten::empty_strided", "aten::new_empty_strided"});
  add(OperatorRule::kCat, {"aten::cat", "aten::concat", "aten::concatenate"});
  add(OperatorRule::kStack, {"aten::stack"});
  add(OperatorRule::kPad, {"aten::constant_pad_nd", "aten::pad"});
  add(OperatorRule::kRepeat, {"aten::repeat", "aten::tile"});
  add(OperatorRule::kIndexSelect, {"aten::index_select"});
  add(OperatorRule::kCopyInPlace, {"aten::copy_"});
  add(OperatorRule::kFillInPlace, {"aten::fill_", "aten::zero_"});
  return rules;
}

}  // namespace

std::optional<OperatorRule> operator_rule(std::string_view kind) {
  static const Rules kRules = make_rules();
  const auto found = kRules.find(kind);
  if (found == kRules.end()) return std::nullopt;
  return found->second;
}

bool joins_lists(std::string_view kind) {
  return kind == "aten::add" || kind == "aten::add_" || kind == "aten::mul";
}

bool reads_later_tensors(std::string_view kind) {
  return kind == "aten::narrow" || kind == "aten::tensor_split";
}

}  // namespace bucketd::torchscript
