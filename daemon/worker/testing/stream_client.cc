#include "daemon/worker/testing/stream_client.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace bucketd::testing {
namespace {

constexpr int kPatienceMs = 30'000;

}  // namespace

std::vector<std::byte> make_frame(std::uint64_t user_data, std::span<const TestTensor> tensors,
                                  SubmissionEntry entry) {
  const std::uint64_t body = input_bytes(tensors);
  entry.user_data = user_data;
  entry.tensor_count = static_cast<std::uint16_t>(tensors.size());
  const StreamFrameHeader header{kStreamFrameMagic,
                                 static_cast<std::uint32_t>(StreamFrameKind::kSubmit),
                                 sizeof(entry) + body};
  std::vector<std::byte> frame(sizeof(header) + sizeof(entry) + body);
  std::memcpy(frame.data(), &header, sizeof(header));
  std::memcpy(frame.data() + sizeof(header), &entry, sizeof(entry));
  write_inputs(std::span(frame).subspan(sizeof(header) + sizeof(entry)), tensors);
  return frame;
}

StreamClient::StreamClient() {
  Result<SocketPair> pair = make_socket_pair(SOCK_STREAM);
  if (!pair) std::abort();
  socket_ = std::move(pair->first);
  worker_socket = std::move(pair->second);
}

bool StreamClient::send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
      continue;
    }
    pollfd waiting{socket_.get(), POLLOUT, 0};
    if (errno != EAGAIN || ::poll(&waiting, 1, kPatienceMs) != 1) return false;
  }
  return true;
}

bool StreamClient::receive(std::byte* data, std::size_t bytes) {
  while (bytes > 0) {
    const auto got = ::recv(socket_.get(), data, bytes, MSG_DONTWAIT);
    if (got > 0) {
      data += got;
      bytes -= static_cast<std::size_t>(got);
      continue;
    }
    pollfd waiting{socket_.get(), POLLIN, 0};
    if (got == 0 || errno != EAGAIN || ::poll(&waiting, 1, kPatienceMs) != 1) return false;
  }
  return true;
}

std::optional<TestAnswer> StreamClient::wait() {
  StreamFrameHeader header{};
  CompletionEntry entry{};
  if (!receive(reinterpret_cast<std::byte*>(&header), sizeof(header)) ||
      !receive(reinterpret_cast<std::byte*>(&entry), sizeof(entry)) ||
      header.magic != kStreamFrameMagic ||
      header.kind != static_cast<std::uint32_t>(StreamFrameKind::kComplete) ||
      header.body_bytes < sizeof(entry)) {
    return std::nullopt;
  }
  std::vector<std::byte> body(header.body_bytes - sizeof(entry));
  if (!receive(body.data(), body.size())) return std::nullopt;
  return read_answer(entry, body);
}

bool StreamClient::wait_for_end() {
  while (true) {
    std::byte bytes[4096];
    const auto got = ::recv(socket_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got == 0) return true;
    if (got > 0) continue;
    if (errno == ECONNRESET) return true;
    pollfd waiting{socket_.get(), POLLIN, 0};
    if (errno != EAGAIN || ::poll(&waiting, 1, kPatienceMs) != 1) return false;
  }
}

}  // namespace bucketd::testing
