// RingClient and RingClientLane: the client's side of a channel, acting on the shared memory
// itself, so that a test can also do what the client library never would. They make the memory, as
// the supervisor does.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/channel_layout.h"
#include "common/futex.h"
#include "common/memfd.h"
#include "common/message_socket.h"

namespace bucketd::testing {

// A tensor for a request: shape, dtype, bytes.
struct TestTensor {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<std::byte> bytes;
};

template <typename T>
TestTensor tensor(const Shape& shape, const std::vector<T>& values) {
  TestTensor made{DTypeOf<T>::kValue, shape, std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
  return made;
}

// What a completion said, copied out.
struct TestAnswer {
  CompletionEntry entry{};
  std::string message;
  std::vector<OutputDescriptor> outputs;
  std::optional<PlanRecord> plan;
  std::vector<PlanInputRecord> plan_inputs;
  std::vector<std::vector<std::byte>> full;  // bytes of each output

  StatusCode status() const { return static_cast<StatusCode>(entry.status); }
  // Output `index` as the caller gets it.
  template <typename T>
  std::vector<T> cropped(std::size_t index) const {
    const OutputDescriptor& output = outputs[index];
    const auto* all = reinterpret_cast<const T*>(full[index].data());
    std::vector<T> kept;
    const std::size_t count = full[index].size() / sizeof(T);
    for (std::size_t flat = 0; flat < count; ++flat) {
      std::size_t rest = flat;
      bool inside = true;
      for (std::size_t d = output.rank; d-- > 0;) {
        const auto at = static_cast<std::int64_t>(rest % static_cast<std::size_t>(output.dims[d]));
        rest /= static_cast<std::size_t>(output.dims[d]);
        inside =
            inside && at >= output.crop_start[d] && at < output.crop_start[d] + output.crop_dims[d];
      }
      if (inside) kept.push_back(all[flat]);
    }
    return kept;
  }
};

// Reads an answer from what an output area holds.
TestAnswer read_answer(const CompletionEntry& entry, std::span<const std::byte> output);

// Writes descriptors and tensors as an input slot holds them. `byte_sizes`: what the descriptors
// say where it differs (padded requests).
void write_inputs(std::span<std::byte> slot, std::span<const TestTensor> tensors);

// Bytes that write_inputs() needs.
std::uint64_t input_bytes(std::span<const TestTensor> tensors);

class RingClient {
 public:
  // Asserts that the memory can be made.
  RingClient();

  // What the worker gets; the regions may be given out once.
  UniqueFd region_a;
  UniqueFd region_b;
  UniqueFd worker_socket;

  ClientPage& page() { return *static_cast<ClientPage*>(a_.get_address()); }
  WorkerPage& worker_page() { return *static_cast<WorkerPage*>(b_.get_address()); }
  int socket() const { return socket_.get(); }
  void close_socket() { socket_.reset(); }

  // After a tail was stored: rings if the worker sleeps. Returns how it said it sleeps.
  Wakeup ring_if_needed();
  // Rings whatever the worker says.
  void ring(Wakeup how);

 private:
  UniqueFd socket_;
  MappedRegion a_;
  MappedRegion b_;
};

class RingClientLane {
 public:
  // Asserts that the layout is possible.
  RingClientLane(RingClient& client, std::uint32_t slots, std::uint64_t input_slot_bytes,
                 std::uint64_t output_slot_bytes);

  UniqueFd region_a;
  UniqueFd region_b;
  const LaneLayout layout;

  LaneClientHeader& header() { return *reinterpret_cast<LaneClientHeader*>(a()); }
  LaneWorkerHeader& worker_header() { return *reinterpret_cast<LaneWorkerHeader*>(b()); }
  std::span<std::byte> input(std::uint32_t slot) {
    return {a() + layout.input_slot_offset(slot), layout.input_slot_bytes};
  }
  std::span<const std::byte> output(std::uint32_t slot) {
    return {b() + layout.output_slot_offset(slot), layout.output_slot_bytes};
  }

  // Puts an entry into the ring without telling.
  void put(const SubmissionEntry& entry);
  // Publishes what was put, and rings if needed.
  void publish();
  // Writes the inputs and submits them raw. `user_data` is also what the answer is known by.
  void submit(std::uint32_t slot, std::uint64_t user_data, std::span<const TestTensor> tensors,
              SubmissionEntry entry = {});
  void submit(std::uint32_t slot, std::uint64_t user_data, const TestTensor& one,
              SubmissionEntry entry = {}) {
    submit(slot, user_data, std::span(&one, 1), entry);
  }

  // The next completion, if it is there.
  std::optional<TestAnswer> poll();
  // Waits for it as the client library does, sleeping in the way given; nothing after half a
  // minute.
  std::optional<TestAnswer> wait(Wakeup how = Wakeup::kFutex);

 private:
  std::byte* a() { return static_cast<std::byte*>(a_.get_address()); }
  std::byte* b() { return static_cast<std::byte*>(b_.get_address()); }

  RingClient& client_;
  MappedRegion a_;
  MappedRegion b_;
  std::uint64_t tail_ = 0;
  std::uint64_t head_ = 0;
};

}  // namespace bucketd::testing
