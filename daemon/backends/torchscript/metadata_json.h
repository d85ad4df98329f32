// JSON of untrusted origin, read with checks: an accessor per type that says where the text is
// wrong. Wraps nlohmann::json; no exception of it gets out.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bucketd/shape.h"
#include "bucketd/status.h"

namespace bucketd::torchscript {

// Deepest nesting of arrays and objects in metadata; the format needs 5.
inline constexpr int kMaxJsonDepth = 16;

// Parses `text` into `value`. Errors: INVALID_ARGUMENT when it is no JSON, nests deeper than
// kMaxJsonDepth, or an object has a key twice.
Status parse_json(std::string_view text, nlohmann::json& value);

// A place in a parsed document and its path ("buckets[1].inputs"). Refers to the document.
//
// Every accessor gives INVALID_ARGUMENT with the path when the value is not what is asked for.
class JsonPlace {
 public:
  explicit JsonPlace(const nlohmann::json& value) : JsonPlace(value, "") {}

  const std::string& path() const { return path_; }
  const nlohmann::json& value() const { return *value_; }

  bool has(const char* key) const;
  // Member `key` of an object.
  Result<JsonPlace> member(const char* key) const;
  // All elements of an array with `least` to `most` of them.
  Result<std::vector<JsonPlace>> elements(std::size_t least, std::size_t most) const;

  // Without control characters.
  Result<std::string> text() const;
  Result<bool> boolean() const;
  // An integer (not 1.0) from `least` to `most`.
  Result<std::int64_t> integer(std::int64_t least, std::int64_t most) const;
  // A list of sizes, each at least 0, at most kMaxRank of them.
  Result<Shape> shape() const;

  // INVALID_ARGUMENT "metadata: PATH: `what`".
  tl::unexpected<Status> bad(const std::string& what) const;

 private:
  JsonPlace(const nlohmann::json& value, std::string path)
      : value_(&value), path_(std::move(path)) {}

  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace bucketd::torchscript
