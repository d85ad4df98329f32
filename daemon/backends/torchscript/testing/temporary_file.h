// A file without a name, for tests of what reads files by descriptor.
#pragma once

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "common/fd.h"

namespace bucketd::torchscript::testing {

// A descriptor of a new file with `content`. Aborts when that is impossible.
inline UniqueFd file_with(std::string_view content) {
  UniqueFd fd(::memfd_create("bucketd-test", MFD_CLOEXEC));
  while (!content.empty()) {
    const ssize_t count = ::write(fd.get(), content.data(), content.size());
    if (count <= 0) ::abort();
    content.remove_prefix(static_cast<std::size_t>(count));
  }
  return fd;
}

}  // namespace bucketd::torchscript::testing
