// YamlReader: reads one YAML mapping key by key and remembers everything that is wrong with it.
//
//   ConfigurationErrors errors("bucketd.yaml");
//   YamlReader limits(node, "limits", errors);
//   limits.read_integer("max_connections", 1, 65536, configuration.max_connections);
//   limits.finish();   // a key that nobody asked for is an error
//
// Thread safety: none.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bucketd/status.h"

namespace bucketd::supervisor {

// Where something stands in the file; counts from 0, as yaml-cpp does.
struct Position {
  int line = 0;
  int column = 0;
};

class ConfigurationErrors {
 public:
  explicit ConfigurationErrors(std::string file_name) : file_name_(std::move(file_name)) {}

  void add(Position position, std::string text);
  bool empty() const { return errors_.empty(); }
  // INVALID_ARGUMENT with one line for each error, in the file's order; ok if there is none.
  Status to_status() const;

 private:
  struct Entry {
    Position position;
    std::string text;
  };
  std::string file_name_;
  std::vector<Entry> errors_;
};

class YamlReader {
 public:
  // `node` must be a mapping, or absent or null (then every key is missing). `what` names it in
  // errors: "limits"; empty for the whole file. `errors` must outlive the reader.
  YamlReader(const YAML::Node& node, std::string what, ConfigurationErrors& errors);

  // Each leaves `value` alone when the key is missing, and adds an error when it is wrong.
  template <typename Integer>
  void read_integer(const std::string& key, std::uint64_t min, std::uint64_t max, Integer& value) {
    if (const std::optional<std::uint64_t> read = integer(key, min, max)) {
      value = static_cast<Integer>(*read);
    }
  }
  // Durations, in their own unit.
  template <typename Duration>
  void read_duration(const std::string& key, std::uint64_t min, std::uint64_t max,
                     Duration& value) {
    if (const std::optional<std::uint64_t> read = integer(key, min, max)) value = Duration(*read);
  }
  void read_text(const std::string& key, std::string& value);
  void read_texts(const std::string& key, std::vector<std::string>& values);
  // One of `choices`; its index.
  std::optional<std::size_t> read_choice(const std::string& key,
                                         const std::vector<std::string_view>& choices);

  // The mapping under `key`, to be read by another reader; an empty node when it is missing.
  YAML::Node child(const std::string& key);
  // Calls `visit` for each element of the list under `key`, if there is one.
  void for_each(const std::string& key, const std::function<void(const YAML::Node&)>& visit);

  bool has(const std::string& key) const;
  // Where the value of `key` stands, or the mapping itself when it is missing.
  Position position(const std::string& key) const;
  void add_error(const std::string& key, const std::string& text);

  // Adds an error for every key that was not asked for.
  void finish();

 private:
  YAML::Node find(const std::string& key);
  std::optional<std::uint64_t> integer(const std::string& key, std::uint64_t min,
                                       std::uint64_t max);
  std::string quoted_key(const std::string& key) const;

  YAML::Node node_;
  std::string what_;
  ConfigurationErrors& errors_;
  std::vector<std::string> asked_;
};

Position position_of(const YAML::Node& node);

}  // namespace bucketd::supervisor
