#include "tools/npy/npy_header.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <string>
#include <system_error>
#include <vector>

namespace bucketd {
namespace {

struct TypeName {
  std::string_view name;
  DType dtype;
};

// The first entry of a type is what is written.
constexpr std::array<TypeName, 14> kTypeNames = {{
    {"|b1", DType::kBool},
    {"|u1", DType::kUint8},
    {"|i1", DType::kInt8},
    {"<i2", DType::kInt16},
    {"<i4", DType::kInt32},
    {"<i8", DType::kInt64},
    {"<f2", DType::kFloat16},
    {"<u2", DType::kBfloat16},
    {"<f4", DType::kFloat32},
    {"<f8", DType::kFloat64},
    {"<V2", DType::kBfloat16},
    {"|V2", DType::kBfloat16},
    {"<u1", DType::kUint8},
    {"<i1", DType::kInt8},
}};

// What of a foreign type's name is shown in an error.
std::string quoted(std::string_view text) {
  constexpr std::size_t kMaxShown = 32;
  std::string result = "'";
  for (char c : text.substr(0, kMaxShown)) {
    result += std::isprint(static_cast<unsigned char>(c)) ? c : '?';
  }
  return result + (text.size() > kMaxShown ? "...'" : "'");
}

Result<DType> dtype_from_npy_name(std::string_view name) {
  for (const TypeName& known : kTypeNames) {
    if (known.name == name) return known.dtype;
  }
  if (!name.empty() && name[0] == '>') {
    return error(StatusCode::kUnimplemented,
                 "npy: type " + quoted(name) +
                     " is big-endian; save it little-endian (array.astype('<' ...))");
  }
  return error(StatusCode::kUnimplemented,
               "npy: bucketd has no type for " + quoted(name) +
                   "; it knows |b1 |u1 |i1 <i2 <i4 <i8 <f2 <f4 <f8 and <u2 (bits of bfloat16)");
}

// A reader of just as much of Python's literals as NumPy writes.
class DictionaryReader {
 public:
  explicit DictionaryReader(std::string_view text) : text_(text) {}

  Result<NpyHeader> read() {
    if (!take('{')) return fail("a dictionary '{'");
    std::optional<std::string_view> descr;
    std::optional<bool> fortran_order;
    std::optional<Shape> shape;
    while (!take('}')) {
      const std::optional<std::string_view> key = read_string();
      if (!key) return fail("a key in quotes or '}'");
      if (!take(':')) return fail("':' after the key");
      if (*key == "descr" && !descr) {
        descr = read_string();
        if (!descr) {
          if (peek() == '[') {
            return error(StatusCode::kUnimplemented,
                         "npy: structured types are not supported; save one plain array");
          }
          return fail("a type in quotes");
        }
      } else if (*key == "fortran_order" && !fortran_order) {
        fortran_order = read_bool();
        if (!fortran_order) return fail("True or False");
      } else if (*key == "shape" && !shape) {
        Result<Shape> parsed = read_shape();
        if (!parsed) return error(parsed.error());
        shape = *parsed;
      } else {
        return error(StatusCode::kInvalidArgument,
                     "npy: header key " + quoted(*key) + " is unknown or given twice");
      }
      if (!take(',') && peek() != '}') return fail("',' or '}'");
    }
    skip_space();
    if (at_ != text_.size()) return fail("nothing after the dictionary");
    if (!descr || !fortran_order || !shape) {
      return error(StatusCode::kInvalidArgument,
                   "npy: the header lacks 'descr', 'fortran_order' or 'shape'");
    }
    Result<DType> dtype = dtype_from_npy_name(*descr);
    if (!dtype) return error(dtype.error());
    return NpyHeader{*dtype, *fortran_order, *shape};
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  // The next character that is no space; 0 at the end.
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char expected) {
    if (peek() != expected || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  // No escapes: none occur in what NumPy writes.
  std::optional<std::string_view> read_string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') return std::nullopt;
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view result = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return result;
  }
  std::optional<bool> read_bool() {
    if (take_word("True")) return true;
    if (take_word("False")) return false;
    return std::nullopt;
  }
  Result<Shape> read_shape() {
    if (!take('(')) return fail("a shape '('");
    std::vector<std::int64_t> dims;
    while (!take(')')) {
      skip_space();
      std::int64_t dim = 0;
      const char* first = text_.data() + at_;
      const char* last = text_.data() + text_.size();
      const auto [end, problem] = std::from_chars(first, last, dim);
      if (problem != std::errc() || dim < 0) return fail("a size from 0 to 2^63 - 1");
      at_ += static_cast<std::size_t>(end - first);
      if (dims.size() == kMaxRank) {
        return error(StatusCode::kOutOfRange, "npy: the array has more than bucketd's " +
                                                  std::to_string(kMaxRank) + " dimensions");
      }
      dims.push_back(dim);
      if (!take(',') && peek() != ')') return fail("',' or ')'");
    }
    return *Shape::from(dims);
  }
  tl::unexpected<Status> fail(std::string_view expected) const {
    return error(StatusCode::kInvalidArgument, "npy: header, character " + std::to_string(at_) +
                                                   ": expected " + std::string(expected));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Result<NpyHeader> parse_npy_dictionary(std::string_view text) {
  return DictionaryReader(text).read();
}

std::string_view npy_type_name(DType dtype) {
  for (const TypeName& known : kTypeNames) {
    if (known.dtype == dtype) return known.name;
  }
  return "";
}

}  // namespace bucketd
