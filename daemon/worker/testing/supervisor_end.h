// SupervisorEnd: the supervisor's end of the link, with a worker on a thread of this process.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/message_socket.h"
#include "daemon/worker/control_link.h"
#include "daemon/worker/testing/fake_backend.h"
#include "daemon/worker/testing/ring_client.h"
#include "daemon/worker/testing/stream_client.h"
#include "daemon/worker/worker.h"
#include "worker_generated.h"

namespace bucketd::testing {

// A received message, verified.
struct LinkMessage {
  std::vector<std::byte> bytes;
  const link::Message& message() const { return *link::GetMessage(bytes.data()); }
  link::Body type() const { return message().body_type(); }
};

class SupervisorEnd {
 public:
  struct Options {
    bool installs_fault_handler = false;
    UniqueFd status_page;  // the worker's; one is made if there is none
  };
  // Starts the worker's thread.
  explicit SupervisorEnd(FakeBackend::MakeModel make_model)
      : SupervisorEnd(std::move(make_model), Options()) {}
  SupervisorEnd(FakeBackend::MakeModel make_model, Options options);
  // Closes the link and waits for the worker.
  ~SupervisorEnd();

  // What ControlLink::run gave; closes the link first.
  Status end();

  // Sends a message; returns its request id.
  template <typename Make>
  std::uint64_t send(Make make, std::vector<int> fds = {}) {
    flatbuffers::FlatBufferBuilder builder;
    const auto body = make(builder);
    const std::uint64_t id = next_id_++;
    post(builder, id, TypeOf<std::remove_cv_t<decltype(body)>>::kType, body.Union(), fds);
    return id;
  }
  void send_bytes(std::span<const std::byte> bytes);

  // The next message; fails the test after half a minute.
  LinkMessage receive();
  // Whether one is there already.
  bool has_message();
  // The answer to `id`, which must be the next message.
  LinkMessage answer_to(std::uint64_t id);

  // --- conversations ---
  // Configure and Ready.
  void configure(std::uint32_t cores = 1, link::WorkerMode mode = link::WorkerMode::kServe);
  LinkMessage load_model(std::uint32_t model_id, const std::string& name);
  // Opens channel and lane 1 for a client; connection id == channel id.
  void open_lane(std::uint64_t channel_id, RingClient& client, RingClientLane& lane,
                 std::uint32_t model_id);
  LinkMessage ask_open_lane(std::uint64_t channel_id, RingClientLane& lane, std::uint32_t lane_id,
                            std::uint32_t model_id);
  LinkMessage map_arena(std::uint32_t arena_id, const UniqueFd& memfd, std::uint64_t byte_size);
  // Its record lies in the last bytes of the arena, which has `arena_bytes`.
  struct Binding {
    std::uint64_t connection_id = 0;
    std::uint64_t handle = 0;
    std::uint32_t model_id = 0;
    std::uint32_t arena_id = 0;
    std::uint64_t arena_bytes = 0;
    std::vector<std::uint64_t> offsets = {};
    bool initialise = false;
  };
  std::uint64_t send_bind(const Binding& binding);
  LinkMessage bind(const Binding& binding) { return answer_to(send_bind(binding)); }

  const WorkerStatus& status() const {
    return *static_cast<const WorkerStatus*>(page_.get_address());
  }

 private:
  template <typename Offset>
  struct TypeOf;
  template <typename T>
  struct TypeOf<flatbuffers::Offset<T>> {
    static constexpr link::Body kType = link::BodyTraits<T>::enum_value;
  };
  void post(flatbuffers::FlatBufferBuilder& builder, std::uint64_t id, link::Body type,
            flatbuffers::Offset<void> body, std::span<const int> fds);

  UniqueFd socket_;
  UniqueFd page_fd_;
  MappedRegion page_;
  std::uint64_t next_id_ = 1;
  std::optional<Status> ended_;
  std::thread worker_;
};

}  // namespace bucketd::testing
