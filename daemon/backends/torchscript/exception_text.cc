#include "daemon/backends/torchscript/exception_text.h"

#include <algorithm>
#include <cstddef>

namespace bucketd::torchscript {
namespace {

constexpr std::size_t kMaxReasonBytes = 300;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Cuts everything from the first `marker` on.
std::string_view before(std::string_view text, std::string_view marker) {
  return text.substr(0, text.find(marker));
}

// The first line that starts with an exception's name ("ValueError: ..."), and what follows it.
// Lines of code are indented.
std::string_view line_of_exception(std::string_view text) {
  constexpr std::string_view kNameCharacters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
  for (std::size_t start = text.find('\n'); start != text.npos; start = text.find('\n', start)) {
    ++start;
    const std::string_view line = text.substr(start);
    const std::size_t name_bytes = std::min(line.find_first_not_of(kNameCharacters), line.size());
    if (name_bytes > 0 && line.substr(name_bytes).starts_with(": ")) return line;
  }
  return {};
}

// Control bytes of a text that an artifact chose would spoil logs and terminals.
std::string printable(std::string_view text) {
  std::string result(text);
  std::replace_if(
      result.begin(), result.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return result;
}

// At most `limit` bytes, cut before a character and not inside one.
std::string_view cut_utf8(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return text.substr(0, limit);
}

}  // namespace

std::string readable_reason(std::string_view what) {
  // "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript
  // ...\n ~~~~ <--- HERE\n more code\nRuntimeError: reason". Tracebacks repeat; the reason follows
  // the last.
  constexpr std::string_view kHere = "<--- HERE";
  if (const std::size_t here = what.rfind(kHere); here != what.npos) {
    const std::string_view reason = line_of_exception(what.substr(here + kHere.size()));
    // Without one it is an error of the TorchScript parser, whose reason comes first.
    if (!reason.empty()) what = reason;
  }
  what = trimmed(what);
  constexpr std::string_view kBuiltins = "builtins.";
  if (what.starts_with(kBuiltins)) what.remove_prefix(kBuiltins.size());
  // "[enforce fail at alloc_cpu.cpp:66] . DefaultCPUAllocator: can't allocate memory: ...".
  if (what.starts_with("[enforce fail")) {
    if (const std::size_t end = what.find(']'); end != what.npos) {
      what = what.substr(what.find_first_not_of(" .", std::min(end + 1, what.size() - 1)));
    }
  }
  what = before(what, "\n");
  what = before(what, "Exception raised from ");
  // "x INTERNAL ASSERT FAILED at "../torch/csrc/...cpp":615, please report a bug to PyTorch.
  // reason"
  std::string text(what);
  if (const std::size_t at = text.find(" at \""); at != text.npos) {
    const std::size_t quote = text.find('"', at + 5);
    if (quote != text.npos) {
      const std::size_t end = text.find_first_not_of(":0123456789", quote + 1);
      text.erase(at, (end == text.npos ? text.size() : end) - at);
    }
  }
  text = printable(trimmed(text));
  if (text.empty()) return "no reason given";
  return std::string(cut_utf8(text, kMaxReasonBytes));
}

bool is_out_of_memory(std::string_view what) {
  return what.find("DefaultCPUAllocator") != what.npos || what.find("bad_alloc") != what.npos;
}

}  // namespace bucketd::torchscript
