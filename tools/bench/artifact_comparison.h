// The mode of bucketd-bench that measures an artifact of the user's: round trips through a daemon
// beside forward() of the same file in this process, bucket by bucket.
#pragma once

#include <cstddef>
#include <string>

#include "bucketd/status.h"

namespace bucketd {

struct ComparisonOptions {
  std::string artifact;
  std::string socket;  // of a daemon that runs already; empty: starts one
  std::string model;   // the artifact's name there
  std::string json_file;
  std::string transport = "ring";  // or "stream"
  std::size_t calls = 1000;        // most calls of a row
  double seconds = 5;              // about how long a row may take
};

// Prints a table, and writes the JSON file if one is named.
// Errors: what went wrong with artifact or daemon; INTERNAL when the answers differ.
Status compare_artifact(const ComparisonOptions& options);

}  // namespace bucketd
