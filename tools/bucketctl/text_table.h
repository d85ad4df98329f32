// TextTable: columns aligned for a terminal.
//
// Thread safety: a value.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bucketd {

// `text` with control characters as \xNN: what another process or an artifact wrote must not steer
// the reader's terminal.
std::string printable(std::string_view text);

class TextTable {
 public:
  // The last column is not padded. A name that begins with '>' is right-aligned (without the '>').
  explicit TextTable(std::vector<std::string> columns);

  // As many cells as there are columns (asserted).
  void add_row(std::vector<std::string> cells);

  std::string to_string() const;

 private:
  std::vector<bool> right_aligned_;
  std::vector<std::vector<std::string>> rows_;  // the first is the heading
};

}  // namespace bucketd
