#include "daemon/supervisor/yaml_reader.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>

namespace bucketd::supervisor {
namespace {

std::string kind_of(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      return "'" + node.Scalar() + "'";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Map:
      return "a mapping";
    default:
      return "nothing";
  }
}

bool is_absent(const YAML::Node& node) { return !node.IsDefined() || node.IsNull(); }

}  // namespace

Position position_of(const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  return {std::max(mark.line, 0), std::max(mark.column, 0)};
}

void ConfigurationErrors::add(Position position, std::string text) {
  errors_.push_back({position, std::move(text)});
}

Status ConfigurationErrors::to_status() const {
  if (errors_.empty()) return Status();
  std::vector<Entry> sorted = errors_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.position.line, a.position.column) <
           std::pair(b.position.line, b.position.column);
  });
  std::ostringstream text;
  for (const Entry& entry : sorted) {
    if (&entry != &sorted.front()) text << '\n';
    text << file_name_ << ':' << entry.position.line + 1 << ':' << entry.position.column + 1 << ": "
         << entry.text;
  }
  return Status(StatusCode::kInvalidArgument, text.str());
}

YamlReader::YamlReader(const YAML::Node& node, std::string what, ConfigurationErrors& errors)
    : node_(node), what_(std::move(what)), errors_(errors) {
  if (is_absent(node_)) return;
  if (!node_.IsMap()) {
    errors_.add(position_of(node_), (what_.empty() ? "the configuration" : "'" + what_ + "'") +
                                        " must be a mapping of keys to values, not " +
                                        kind_of(node_));
    node_.reset();  // plain assignment would change the document
    return;
  }
  std::set<std::string> seen;
  for (const auto& pair : node_) {
    if (pair.first.IsScalar() && !seen.insert(pair.first.Scalar()).second) {
      errors_.add(position_of(pair.first), "key '" + pair.first.Scalar() + "' is there twice");
    }
  }
}

std::string YamlReader::quoted_key(const std::string& key) const {
  return "'" + (what_.empty() ? key : what_ + "." + key) + "'";
}

YAML::Node YamlReader::find(const std::string& key) {
  asked_.push_back(key);
  if (!node_.IsMap()) return YAML::Node();
  for (const auto& pair : node_) {
    if (pair.first.IsScalar() && pair.first.Scalar() == key) return pair.second;
  }
  return YAML::Node();
}

bool YamlReader::has(const std::string& key) const {
  if (!node_.IsMap()) return false;
  return std::any_of(node_.begin(), node_.end(), [&](const auto& pair) {
    return pair.first.IsScalar() && pair.first.Scalar() == key && !is_absent(pair.second);
  });
}

Position YamlReader::position(const std::string& key) const {
  if (node_.IsMap()) {
    for (const auto& pair : node_) {
      if (!pair.first.IsScalar() || pair.first.Scalar() != key) continue;
      // A missing value has no position of its own.
      return position_of(is_absent(pair.second) ? pair.first : pair.second);
    }
  }
  return position_of(node_);
}

void YamlReader::add_error(const std::string& key, const std::string& text) {
  errors_.add(position(key), quoted_key(key) + " " + text);
}

std::optional<std::uint64_t> YamlReader::integer(const std::string& key, std::uint64_t min,
                                                 std::uint64_t max) {
  const YAML::Node node = find(key);
  if (is_absent(node)) return std::nullopt;
  const std::string range = std::to_string(min) + " to " + std::to_string(max);
  if (!node.IsScalar()) {
    add_error(key, "must be an integer from " + range + ", not " + kind_of(node));
    return std::nullopt;
  }
  const std::string& text = node.Scalar();
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value < min || value > max) {
    add_error(key, "must be an integer from " + range + ", not '" + text + "'");
    return std::nullopt;
  }
  return value;
}

void YamlReader::read_text(const std::string& key, std::string& value) {
  const YAML::Node node = find(key);
  if (is_absent(node)) return;
  if (!node.IsScalar() || node.Scalar().empty()) {
    add_error(key, "must be a text, not " + (node.IsScalar() ? "an empty one" : kind_of(node)));
    return;
  }
  value = node.Scalar();
}

void YamlReader::read_texts(const std::string& key, std::vector<std::string>& values) {
  std::vector<std::string> read;
  for_each(key, [&](const YAML::Node& element) {
    if (element.IsScalar() && !element.Scalar().empty()) {
      read.push_back(element.Scalar());
    } else {
      errors_.add(position_of(element), "elements of " + quoted_key(key) + " must be texts, not " +
                                            (element.IsScalar() ? "empty" : kind_of(element)));
    }
  });
  if (has(key)) values = std::move(read);
}

std::optional<std::size_t> YamlReader::read_choice(const std::string& key,
                                                   const std::vector<std::string_view>& choices) {
  const YAML::Node node = find(key);
  if (is_absent(node)) return std::nullopt;
  if (node.IsScalar()) {
    const auto found = std::find(choices.begin(), choices.end(), node.Scalar());
    if (found != choices.end()) return static_cast<std::size_t>(found - choices.begin());
  }
  std::string listed;
  for (const std::string_view choice : choices) {
    listed += (listed.empty() ? "" : ", ") + std::string(choice);
  }
  add_error(key, "must be one of " + listed + "; not " + kind_of(node));
  return std::nullopt;
}

YAML::Node YamlReader::child(const std::string& key) { return find(key); }

void YamlReader::for_each(const std::string& key,
                          const std::function<void(const YAML::Node&)>& visit) {
  const YAML::Node node = find(key);
  if (is_absent(node)) return;
  if (!node.IsSequence()) {
    add_error(key, "must be a list, not " + kind_of(node));
    return;
  }
  for (const YAML::Node& element : node) visit(element);
}

void YamlReader::finish() {
  if (!node_.IsMap()) return;
  std::vector<std::string> known = asked_;
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  std::string listed;
  for (const std::string& key : known) listed += (listed.empty() ? "" : ", ") + key;
  for (const auto& pair : node_) {
    if (!pair.first.IsScalar()) {
      errors_.add(position_of(pair.first), "a key must be a text, not " + kind_of(pair.first));
    } else if (!std::binary_search(known.begin(), known.end(), pair.first.Scalar())) {
      errors_.add(position_of(pair.first),
                  "unknown key " + quoted_key(pair.first.Scalar()) + "; known here: " + listed);
    }
  }
}

}  // namespace bucketd::supervisor
