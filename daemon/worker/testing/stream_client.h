// StreamClient: the client's side of a stream lane, frame by frame or byte by byte.
//
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/fd.h"
#include "daemon/worker/testing/ring_client.h"

namespace bucketd::testing {

// The bytes of a submission frame.
std::vector<std::byte> make_frame(std::uint64_t user_data, std::span<const TestTensor> tensors,
                                  SubmissionEntry entry = {});

class StreamClient {
 public:
  // Makes the pair; the worker's end is `worker_socket`.
  StreamClient();

  UniqueFd worker_socket;

  int socket() const { return socket_.get(); }
  void close() { socket_.reset(); }

  // Sends all of it, waiting where the socket is full; false after half a minute or at the end.
  bool send(std::span<const std::byte> bytes);
  bool submit(std::uint64_t user_data, const TestTensor& tensor, SubmissionEntry entry = {}) {
    return send(make_frame(user_data, std::span(&tensor, 1), entry));
  }

  // The next answer; nothing at the stream's end or after half a minute.
  std::optional<TestAnswer> wait();
  // Whether the worker closed the stream, within half a minute; answers are read over.
  bool wait_for_end();

 private:
  bool receive(std::byte* data, std::size_t bytes);
  UniqueFd socket_;
};

}  // namespace bucketd::testing
