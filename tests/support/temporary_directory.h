// TemporaryDirectory: a folder of its own for one test, beneath $TMPDIR, removed at its end.
//
// Thread safety: as for std::string.
#pragma once

#include <filesystem>
#include <string>

namespace bucketd::test {

class TemporaryDirectory {
 public:
  // Aborts when it cannot be made: no test can go on without.
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // Writes a file in it and gives its path.
  std::filesystem::path write(const std::string& name, const std::string& content) const;

 private:
  std::filesystem::path path_;
};

// The content of a file; empty if it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace bucketd::test
