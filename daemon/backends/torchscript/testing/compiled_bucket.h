// For tests of what is found out about a bucket's function. No LibTorch in this header.
#pragma once

#include <string>
#include <vector>

namespace bucketd::torchscript::testing {

// reasons_to_copy() of `def forward(self, ARGUMENTS): BODY`. Throws what LibTorch's compiler does.
std::vector<std::string> reasons(const std::string& arguments, const std::string& body);

}  // namespace bucketd::torchscript::testing
