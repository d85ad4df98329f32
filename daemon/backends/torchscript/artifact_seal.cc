#include "daemon/backends/torchscript/artifact_seal.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "daemon/backends/torchscript/file_reading.h"

namespace bucketd::torchscript {
namespace {

constexpr std::string_view kMarker = "bucketd-seal sha256:";
constexpr std::uint64_t kDigestDigits = 64;
static_assert(kMarker.size() + kDigestDigits == kSealBytes);

// Large enough that the system calls do not show, small enough to stay in the cache.
constexpr std::size_t kChunkBytes = 256 * 1024;

std::string hex(std::span<const unsigned char> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Result<std::string> digest_of(int fd, std::uint64_t byte_count) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return error(StatusCode::kInternal, "SHA-256 is not available in libcrypto");
  }
  std::vector<std::byte> chunk(kChunkBytes);
  for (std::uint64_t offset = 0; offset < byte_count;) {
    const std::size_t size =
        static_cast<std::size_t>(std::min<std::uint64_t>(byte_count - offset, chunk.size()));
    if (Status status = read_range(fd, offset, {chunk.data(), size}); !status.ok()) {
      return error(std::move(status));
    }
    if (EVP_DigestUpdate(context.get(), chunk.data(), size) != 1) {
      return error(StatusCode::kInternal, "SHA-256 failed in libcrypto");
    }
    offset += size;
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int digest_bytes = 0;
  if (EVP_DigestFinal_ex(context.get(), digest.data(), &digest_bytes) != 1) {
    return error(StatusCode::kInternal, "SHA-256 failed in libcrypto");
  }
  return hex({digest.data(), digest_bytes});
}

}  // namespace

Result<std::string> check_seal(int fd, std::uint64_t file_bytes) {
  if (file_bytes < kSealBytes) {
    return error(StatusCode::kDataLoss, "the file has " + std::to_string(file_bytes) +
                                            " bytes, too few for a sealed artifact");
  }
  std::string seal(kSealBytes, '\0');
  if (Status status = read_range(fd, file_bytes - kSealBytes,
                                 std::as_writable_bytes(std::span<char>(seal.data(), seal.size())));
      !status.ok()) {
    return error(std::move(status));
  }
  if (!std::string_view(seal).starts_with(kMarker)) {
    return error(StatusCode::kDataLoss,
                 "the file does not end in a seal: it is truncated, or was never sealed "
                 "(python3 -m bucketd.artifact seal FILE)");
  }
  Result<std::string> digest = digest_of(fd, file_bytes - kDigestDigits);
  if (!digest) return digest;
  if (std::string_view(seal).substr(kMarker.size()) != *digest) {
    return error(StatusCode::kDataLoss, "the seal does not fit the content: the file is damaged");
  }
  return digest;
}

}  // namespace bucketd::torchscript
