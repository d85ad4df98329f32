#include "daemon/backends/torchscript/metadata_json.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

namespace bucketd::torchscript {
namespace {

// Whether brackets outside of strings nest at most kMaxJsonDepth deep. Looks at nothing else: the
// parser does.
bool is_shallow(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return false;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return true;
}

}  // namespace

Status parse_json(std::string_view text, nlohmann::json& value) {
  if (!is_shallow(text)) {
    return Status(StatusCode::kInvalidArgument, "metadata: brackets nest deeper than " +
                                                    std::to_string(kMaxJsonDepth) + " levels");
  }
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const auto callback = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    switch (event) {
      case nlohmann::json::parse_event_t::object_start:
        keys.emplace_back();
        break;
      case nlohmann::json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case nlohmann::json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys.back().insert(key).second && duplicate.empty()) duplicate = key.substr(0, 80);
        break;
      }
      default:
        break;
    }
    return true;
  };
  try {
    value = nlohmann::json::parse(text.begin(), text.end(), callback);
  } catch (const nlohmann::json::exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...".
    std::string_view reason = exception.what();
    if (const std::size_t end = reason.find("] "); end != reason.npos)
      reason.remove_prefix(end + 2);
    return Status(StatusCode::kInvalidArgument,
                  "metadata: not JSON: " + std::string(reason.substr(0, 160)));
  }
  if (!duplicate.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "metadata: an object has the key '" + duplicate + "' twice");
  }
  return Status();
}

bool JsonPlace::has(const char* key) const { return value_->is_object() && value_->contains(key); }

Result<JsonPlace> JsonPlace::member(const char* key) const {
  if (!value_->is_object()) return bad("is not an object");
  const auto found = value_->find(key);
  if (found == value_->end()) return bad("has no member '" + std::string(key) + "'");
  return JsonPlace(*found, path_.empty() ? std::string(key) : path_ + "." + key);
}

Result<std::vector<JsonPlace>> JsonPlace::elements(std::size_t least, std::size_t most) const {
  if (!value_->is_array()) return bad("is not a list");
  if (value_->size() < least || value_->size() > most) {
    const std::string wanted = least == most
                                   ? std::to_string(least)
                                   : std::to_string(least) + " to " + std::to_string(most);
    return bad("has " + std::to_string(value_->size()) + " elements where " + wanted +
               " are expected");
  }
  std::vector<JsonPlace> places;
  places.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    places.push_back(JsonPlace((*value_)[i], path_ + "[" + std::to_string(i) + "]"));
  }
  return places;
}

Result<std::string> JsonPlace::text() const {
  if (!value_->is_string()) return bad("is not a text");
  const auto& text = value_->get_ref<const std::string&>();
  // Texts reach logs and terminals.
  if (std::any_of(text.begin(), text.end(),
                  [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    return bad("has control characters");
  }
  return text;
}

Result<bool> JsonPlace::boolean() const {
  if (!value_->is_boolean()) return bad("is not true or false");
  return value_->get<bool>();
}

Result<std::int64_t> JsonPlace::integer(std::int64_t least, std::int64_t most) const {
  const std::string wanted =
      "is not an integer from " + std::to_string(least) + " to " + std::to_string(most);
  if (!value_->is_number_integer()) return bad(wanted);
  if (value_->is_number_unsigned() &&
      value_->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return bad(wanted);
  }
  const auto number = value_->get<std::int64_t>();
  if (number < least || number > most) return bad(wanted);
  return number;
}

Result<Shape> JsonPlace::shape() const {
  auto sizes = elements(0, kMaxRank);
  if (!sizes) return error(sizes.error());
  std::array<std::int64_t, kMaxRank> dims{};
  for (std::size_t i = 0; i < sizes->size(); ++i) {
    const Result<std::int64_t> size =
        (*sizes)[i].integer(0, std::numeric_limits<std::int64_t>::max());
    if (!size) return error(size.error());
    dims[i] = *size;
  }
  return *Shape::from(std::span<const std::int64_t>(dims.data(), sizes->size()));
}

tl::unexpected<Status> JsonPlace::bad(const std::string& what) const {
  const std::string where = path_.empty() ? "" : path_ + ": ";
  return error(StatusCode::kInvalidArgument, "metadata: " + where + what);
}

}  // namespace bucketd::torchscript
