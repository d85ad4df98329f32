#include "daemon/worker/testing/ring_client.h"

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>

namespace bucketd::testing {
namespace {

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().to_string().c_str());
    std::abort();
  }
  return std::move(*result);
}

}  // namespace

TestAnswer read_answer(const CompletionEntry& entry, std::span<const std::byte> output) {
  TestAnswer answer;
  answer.entry = entry;
  if (answer.status() != StatusCode::kOk) {
    answer.message.assign(reinterpret_cast<const char*>(output.data()), entry.message_bytes);
    return answer;
  }
  const std::byte* at = output.data();
  for (std::size_t o = 0; o < entry.output_count; ++o) {
    std::memcpy(&answer.outputs.emplace_back(), at, sizeof(OutputDescriptor));
    at += sizeof(OutputDescriptor);
    const auto bytes =
        output.subspan(answer.outputs.back().offset, answer.outputs.back().byte_size);
    answer.full.emplace_back(bytes.begin(), bytes.end());
  }
  if ((entry.flags & kCompletionHasPlan) != 0) {
    std::memcpy(&answer.plan.emplace(), at, sizeof(PlanRecord));
    at += sizeof(PlanRecord);
    for (std::uint32_t i = 0; i < answer.plan->input_count; ++i) {
      std::memcpy(&answer.plan_inputs.emplace_back(), at, sizeof(PlanInputRecord));
      at += sizeof(PlanInputRecord);
    }
  }
  return answer;
}

std::uint64_t input_bytes(std::span<const TestTensor> tensors) {
  std::uint64_t bytes = input_payload_offset(tensors.size());
  for (const TestTensor& tensor : tensors) {
    bytes += *align_up(tensor.bytes.size(), kTensorAlignment);
  }
  return bytes;
}

void write_inputs(std::span<std::byte> slot, std::span<const TestTensor> tensors) {
  std::uint64_t offset = input_payload_offset(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TestTensor& tensor = tensors[i];
    InputDescriptor descriptor{};
    descriptor.dtype = static_cast<std::uint8_t>(tensor.dtype);
    descriptor.rank = static_cast<std::uint8_t>(tensor.shape.rank());
    descriptor.offset = offset;
    descriptor.byte_size = tensor.bytes.size();
    std::memcpy(descriptor.dims, tensor.shape.dims().data(), tensor.shape.dims().size_bytes());
    std::memcpy(slot.data() + i * sizeof(descriptor), &descriptor, sizeof(descriptor));
    if (!tensor.bytes.empty()) {
      std::memcpy(slot.subspan(offset).data(), tensor.bytes.data(), tensor.bytes.size());
    }
    offset += *align_up(tensor.bytes.size(), kTensorAlignment);
  }
}

RingClient::RingClient()
    : region_a(must(create_memfd("test-a", kPageBytes))),
      region_b(must(create_memfd("test-b", kPageBytes))) {
  SocketPair pair = must(make_socket_pair(SOCK_STREAM));
  socket_ = std::move(pair.first);
  worker_socket = std::move(pair.second);
  a_ = must(map_memfd(region_a.get(), kPageBytes, MapAccess::kReadWrite));
  b_ = must(map_memfd(region_b.get(), kPageBytes, MapAccess::kReadWrite));
}

Wakeup RingClient::ring_if_needed() {
  std::atomic_thread_fence(std::memory_order_seq_cst);  // (C1)
  const auto how = static_cast<Wakeup>(worker_page().need_wakeup.load(std::memory_order_relaxed));
  if (how != Wakeup::kNone) ring(how);
  return how;
}

void RingClient::ring(Wakeup how) {
  page().doorbell.fetch_add(1, std::memory_order_release);
  if (how == Wakeup::kSocket) {
    const char byte = 0;
    [[maybe_unused]] const auto sent = ::send(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    futex_wake(page().doorbell, 1);
  }
}

RingClientLane::RingClientLane(RingClient& client, std::uint32_t slots,
                               std::uint64_t input_slot_bytes, std::uint64_t output_slot_bytes)
    : layout(must(make_lane_layout(slots, input_slot_bytes, output_slot_bytes))), client_(client) {
  region_a = must(create_memfd("test-lane-a", layout.region_a_bytes));
  region_b = must(create_memfd("test-lane-b", layout.region_b_bytes));
  a_ = must(map_memfd(region_a.get(), layout.region_a_bytes, MapAccess::kReadWrite));
  b_ = must(map_memfd(region_b.get(), layout.region_b_bytes, MapAccess::kReadWrite));
}

void RingClientLane::put(const SubmissionEntry& entry) {
  const std::uint64_t index = tail_++ & (layout.slot_count - 1);
  std::memcpy(a() + layout.submission_ring_offset + index * sizeof(entry), &entry, sizeof(entry));
}

void RingClientLane::publish() {
  header().submission_tail.store(tail_, std::memory_order_release);
  client_.ring_if_needed();
}

void RingClientLane::submit(std::uint32_t slot, std::uint64_t user_data,
                            std::span<const TestTensor> tensors, SubmissionEntry entry) {
  write_inputs(input(slot), tensors);
  entry.user_data = user_data;
  entry.slot = slot;
  entry.tensor_count = static_cast<std::uint16_t>(tensors.size());
  put(entry);
  publish();
}

std::optional<TestAnswer> RingClientLane::poll() {
  const std::uint64_t tail = worker_header().completion_tail.load(std::memory_order_acquire);
  if (tail == head_) return std::nullopt;
  CompletionEntry entry;
  const std::uint64_t index = head_ & (layout.slot_count - 1);
  std::memcpy(&entry, b() + layout.completion_ring_offset + index * sizeof(entry), sizeof(entry));
  TestAnswer answer = read_answer(entry, output(entry.slot));
  header().completion_head.store(++head_, std::memory_order_release);
  return answer;
}

std::optional<TestAnswer> RingClientLane::wait(Wakeup how) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < give_up) {
    const std::uint32_t seen = client_.worker_page().signal.load(std::memory_order_acquire);
    client_.page().waiting.store(static_cast<std::uint32_t>(how), std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // (C2)
    std::optional<TestAnswer> answer = poll();
    if (!answer && how == Wakeup::kFutex) {
      futex_wait(client_.worker_page().signal, seen, give_up);
    } else if (!answer && how == Wakeup::kSocket) {
      pollfd waiting{client_.socket(), POLLIN, 0};
      ::poll(&waiting, 1, 30'000);
      char bytes[64];
      [[maybe_unused]] const auto got =
          ::recv(client_.socket(), bytes, sizeof(bytes), MSG_DONTWAIT);
    }
    client_.page().waiting.store(0, std::memory_order_relaxed);
    if (!answer) answer = poll();
    if (answer) return answer;
  }
  return std::nullopt;
}

}  // namespace bucketd::testing
