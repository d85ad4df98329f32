#include "tools/bucketctl/text_table.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <utility>

namespace bucketd {

std::string printable(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string result;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += "\\x";
      result += kHex[byte >> 4];
      result += kHex[byte & 0xF];
    } else {
      result += c;
    }
  }
  return result;
}

TextTable::TextTable(std::vector<std::string> columns) {
  for (std::string& name : columns) {
    right_aligned_.push_back(name.starts_with('>'));
    if (right_aligned_.back()) name.erase(0, 1);
  }
  rows_.push_back(std::move(columns));
}

void TextTable::add_row(std::vector<std::string> cells) {
  assert(cells.size() == right_aligned_.size());
  for (std::string& cell : cells) cell = printable(cell);
  rows_.push_back(std::move(cells));
}

std::string TextTable::to_string() const {
  std::vector<std::size_t> width(right_aligned_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string result;
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string padding(width[c] - row[c].size(), ' ');
      const bool last = c + 1 == row.size();
      result += right_aligned_[c] ? padding + row[c] : row[c] + (last ? "" : padding);
      result += last ? "\n" : "  ";
    }
  }
  return result;
}

}  // namespace bucketd
