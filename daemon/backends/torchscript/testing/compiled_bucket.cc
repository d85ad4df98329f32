#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <sstream>

#include "daemon/backends/torchscript/input_use.h"
#include "daemon/backends/torchscript/testing/compiled_bucket.h"

namespace bucketd::torchscript::testing {

std::vector<std::string> reasons(const std::string& arguments, const std::string& body) {
  std::string source = "def forward(self, " + arguments + "):\n";
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);) source += "  " + line + "\n";
  torch::jit::Module module("__torch__.Bucket");
  module.define(source);
  return reasons_to_copy(module.get_method("forward").function());
}

}  // namespace bucketd::torchscript::testing
