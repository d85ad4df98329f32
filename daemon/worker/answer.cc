#include "daemon/worker/answer.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace bucketd {
namespace {

// The longest beginning of UTF-8 `text` of at most `bytes` bytes that ends with a whole character.
std::string_view cut(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) --bytes;
  return text.substr(0, bytes);
}

}  // namespace

CompletionEntry make_completion(const SubmissionEntry& submission) {
  CompletionEntry completion{};
  completion.user_data = submission.user_data;
  completion.slot = submission.slot;
  completion.bucket = kNoBucket;
  return completion;
}

void answer_error(Lane& lane, CompletionEntry completion, const Status& status) {
  const std::span<std::byte> output = lane.output(completion.slot);
  const std::string_view text =
      cut(status.message(), std::min<std::size_t>(kMaxMessageBytes, output.size()));
  if (!text.empty()) std::memcpy(output.data(), text.data(), text.size());
  completion.status = static_cast<std::uint32_t>(status.code());
  completion.bucket = kNoBucket;
  completion.plan_id = 0;
  completion.output_count = 0;
  completion.flags = 0;
  completion.message_bytes = static_cast<std::uint32_t>(text.size());
  lane.complete(completion, text.size());
}

}  // namespace bucketd
