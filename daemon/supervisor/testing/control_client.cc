#include "daemon/supervisor/testing/control_client.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "common/futex.h"
#include "common/wire/model_wire.h"

namespace bucketd::testing {
namespace {

using Clock = std::chrono::steady_clock;
// Only a broken program takes this long.
constexpr std::chrono::seconds kPatience{20};

}  // namespace

Status Received::status() const {
  const wire::Error* error = message().body_as_Error();
  return error == nullptr ? Status() : wire::from_wire(error->status());
}

ControlClient::ControlClient(const std::string& socket_path)
    : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof(address.sun_path) - 1);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw std::runtime_error(std::string("connect: ") + std::strerror(errno));
  }
}

void ControlClient::send_bytes(const std::vector<std::byte>& bytes, const std::vector<int>& fds) {
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    const Status status = send_message(socket_.get(), bytes, fds);
    if (status.code() != StatusCode::kWouldBlock) return;
    pollfd writable{socket_.get(), POLLOUT, 0};
    ::poll(&writable, 1, 1000);
  }
  throw std::runtime_error("the daemon does not take messages");
}

std::optional<Received> ControlClient::receive() {
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    Result<ReceivedMessage> message = receive_message(socket_.get());
    if (message) return Received{std::move(message->bytes), std::move(message->fds)};
    if (message.error().code() != StatusCode::kWouldBlock) return std::nullopt;
    pollfd readable{socket_.get(), POLLIN, 0};
    ::poll(&readable, 1, 1000);
  }
  throw std::runtime_error("no message came from the daemon");
}

Received ControlClient::answer(std::uint64_t request_id) {
  for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
    if (kept->message().request_id() != request_id) continue;
    Received received = std::move(*kept);
    kept_.erase(kept);
    return received;
  }
  while (true) {
    std::optional<Received> received = receive();
    if (!received) throw std::runtime_error("the daemon closed the connection");
    if (received->message().request_id() == request_id) return std::move(*received);
    kept_.push_back(std::move(*received));
  }
}

Received ControlClient::event() { return answer(0); }

bool ControlClient::wait_closed() {
  while (true) {
    try {
      if (!receive()) return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }
}

void ControlClient::greet() {
  const Received welcome = ask([](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateHello(builder, kProtocolMajor, kProtocolMinor, kFeatureRing,
                             builder.CreateString("test"));
  });
  ASSERT_EQ(welcome.type(), wire::Body::Welcome) << welcome.status().to_string();
}

std::string ControlClient::state_of(const std::string& model) {
  const Received list =
      ask([](flatbuffers::FlatBufferBuilder& builder) { return wire::CreateListModels(builder); });
  for (const wire::ModelSummary* summary : *list.message().body_as_ModelList()->models()) {
    if (summary->name()->str() != model) continue;
    constexpr const char* kNames[] = {"loading", "ready", "failed", "quarantined", "unloading"};
    const std::string state = kNames[static_cast<int>(summary->state())];
    return summary->reason()->size() == 0 ? state : state + ": " + summary->reason()->str();
  }
  return "absent";
}

TestLane::TestLane(Received opened, const TestLane* channel) : message_(std::move(opened)) {
  if (message_.type() != wire::Body::LaneOpened) {
    throw std::runtime_error("no lane: " + message_.status().to_string());
  }
  layout_ = *wire::from_wire(this->opened().layout());
  std::vector<UniqueFd>& fds = message_.fds;
  if (this->opened().new_channel()) {
    if (fds.size() != 5) throw std::runtime_error("wrong number of descriptors");
    page_ =
        std::make_shared<MappedRegion>(*map_memfd(fds[1].get(), kPageBytes, MapAccess::kReadOnly));
    wakeup_ = std::make_shared<UniqueFd>(std::move(fds[2]));
    fds.erase(fds.begin(), fds.begin() + 3);
  } else {
    page_ = channel->page_;
    wakeup_ = channel->wakeup_;
  }
  if (fds.size() != 2) throw std::runtime_error("wrong number of descriptors");
  a_ = *map_memfd(fds[0].get(), layout_.region_a_bytes, MapAccess::kReadWrite);
  b_ = *map_memfd(fds[1].get(), layout_.region_b_bytes, MapAccess::kReadOnly);
  region_b_ = std::move(fds[1]);
}

void TestLane::submit(std::uint8_t what, std::uint64_t user_data, float first,
                      std::uint64_t session_handle) {
  auto* a = static_cast<std::byte*>(a_.get_address());
  SubmissionEntry entry{};
  entry.user_data = user_data;
  entry.session_handle = session_handle;
  entry.slot = static_cast<std::uint32_t>(tail_ % layout_.slot_count);
  entry.priority = what;
  std::memcpy(a + layout_.input_slot_offset(entry.slot), &first, sizeof(first));
  std::memcpy(a + layout_.submission_ring_offset + entry.slot * sizeof(entry), &entry,
              sizeof(entry));
  auto& header = *static_cast<LaneClientHeader*>(a_.get_address());
  header.submission_tail.store(++tail_, std::memory_order_release);
  ::send(wakeup_->get(), "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void TestLane::wait_taken() {
  const auto& header = *static_cast<const LaneWorkerHeader*>(b_.get_address());
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    const std::uint32_t seen = page().signal.load();
    if (header.submission_head.load(std::memory_order_acquire) == tail_) return;
    futex_wait(page().signal, seen, deadline);
  }
  throw std::runtime_error("the worker does not take the request");
}

std::optional<CompletionEntry> TestLane::completion() {
  const auto& header = *static_cast<const LaneWorkerHeader*>(b_.get_address());
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    const std::uint32_t seen = page().signal.load();
    if (header.completion_tail.load(std::memory_order_acquire) != head_) {
      CompletionEntry entry;
      std::memcpy(&entry,
                  static_cast<const std::byte*>(b_.get_address()) + layout_.completion_ring_offset +
                      (head_ % layout_.slot_count) * sizeof(entry),
                  sizeof(entry));
      ++head_;
      return entry;
    }
    if (page().closed.load() != 0) return std::nullopt;
    futex_wait(page().signal, seen, deadline);
  }
  throw std::runtime_error("no completion came");
}

float TestLane::output(const CompletionEntry& completion) const {
  float value = 0;
  std::memcpy(
      &value,
      static_cast<const std::byte*>(b_.get_address()) + layout_.output_slot_offset(completion.slot),
      sizeof(value));
  return value;
}

std::chrono::milliseconds TestLane::wait_closed() {
  const Clock::time_point begin = Clock::now();
  while (Clock::now() < begin + kPatience) {
    const std::uint32_t seen = page().signal.load();
    if (page().closed.load() != 0) {
      return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    }
    futex_wait(page().signal, seen, begin + kPatience);
  }
  throw std::runtime_error("the channel was not closed");
}

}  // namespace bucketd::testing
