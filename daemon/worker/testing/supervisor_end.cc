#include "daemon/worker/testing/supervisor_end.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>

#include "daemon/link/session_record.h"

namespace bucketd::testing {
namespace {

constexpr int kPatienceMs = 30'000;

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().to_string().c_str());
    std::abort();
  }
  return std::move(*result);
}

}  // namespace

SupervisorEnd::SupervisorEnd(FakeBackend::MakeModel make_model, Options options) {
  SocketPair pair = must(make_socket_pair(SOCK_SEQPACKET));
  socket_ = std::move(pair.first);
  page_fd_ = options.status_page ? std::move(options.status_page)
                                 : must(create_memfd("test-status", kWorkerStatusBytes));
  page_ = must(map_memfd(page_fd_.get(), kWorkerStatusBytes, MapAccess::kReadOnly));
  worker_ = std::thread([this, socket = pair.second.release(), make_model,
                         installs_fault_handler = options.installs_fault_handler] {
    const EventFd wake = must(EventFd::make());
    Outbox outbox(&wake);
    ControlLink link(UniqueFd(socket), wake, outbox);
    Worker worker(
        {.make_backend = [make_model](const BackendOptions&) -> Result<std::unique_ptr<Backend>> {
           return std::make_unique<FakeBackend>(make_model);
         },
         .installs_fault_handler = installs_fault_handler},
        wake, outbox);
    ended_ = link.run(worker);
  });
}

SupervisorEnd::~SupervisorEnd() {
  if (worker_.joinable()) [[maybe_unused]]
    const Status status = end();
}

Status SupervisorEnd::end() {
  ::shutdown(socket_.get(), SHUT_RDWR);
  worker_.join();
  return *ended_;
}

void SupervisorEnd::send_bytes(std::span<const std::byte> bytes) {
  const Status sent = send_message(socket_.get(), bytes);
  EXPECT_TRUE(sent.ok()) << sent.to_string();
}

void SupervisorEnd::post(flatbuffers::FlatBufferBuilder& builder, std::uint64_t id, link::Body type,
                         flatbuffers::Offset<void> body, std::span<const int> fds) {
  builder.Finish(link::CreateMessage(builder, id, type, body));
  const Status sent = send_message(
      socket_.get(), std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())), fds);
  EXPECT_TRUE(sent.ok()) << sent.to_string();
}

bool SupervisorEnd::has_message() {
  pollfd waiting{socket_.get(), POLLIN, 0};
  return ::poll(&waiting, 1, 0) == 1;
}

LinkMessage SupervisorEnd::receive() {
  pollfd waiting{socket_.get(), POLLIN, 0};
  if (::poll(&waiting, 1, kPatienceMs) != 1) {
    ADD_FAILURE() << "the worker says nothing";
    std::abort();
  }
  LinkMessage message{must(receive_message(socket_.get())).bytes};
  flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(message.bytes.data()),
                                 message.bytes.size());
  EXPECT_TRUE(link::VerifyMessageBuffer(verifier));
  return message;
}

LinkMessage SupervisorEnd::answer_to(std::uint64_t id) {
  LinkMessage message = receive();
  EXPECT_EQ(message.message().request_id(), id)
      << "a message of type " << link::EnumNameBody(message.type());
  return message;
}

void SupervisorEnd::configure(std::uint32_t cores, link::WorkerMode mode) {
  send(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateConfigure(builder, 3, 99, mode, 0, cores);
      },
      {page_fd_.get()});
  const LinkMessage ready = receive();
  ASSERT_EQ(ready.type(), link::Body::Ready);
  EXPECT_EQ(ready.message().request_id(), 0u);
  EXPECT_EQ(ready.message().body_as_Ready()->library_version()->str(), "fake 1");
}

LinkMessage SupervisorEnd::load_model(std::uint32_t model_id, const std::string& name) {
  return answer_to(send(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateLoadModel(builder, model_id, builder.CreateString(name));
      },
      {page_fd_.get()}));
}

LinkMessage SupervisorEnd::ask_open_lane(std::uint64_t channel_id, RingClientLane& lane,
                                         std::uint32_t lane_id, std::uint32_t model_id) {
  const wire::LaneLayout layout = wire::to_wire(lane.layout);
  return answer_to(send(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateOpenLane(builder, channel_id, lane_id, model_id, link::Transport::kRing,
                                    &layout, 4096, channel_id);
      },
      {lane.region_a.get(), lane.region_b.get()}));
}

void SupervisorEnd::open_lane(std::uint64_t channel_id, RingClient& client, RingClientLane& lane,
                              std::uint32_t model_id) {
  const LinkMessage channel = answer_to(send(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateOpenChannel(builder, channel_id, channel_id);
      },
      {client.region_a.get(), client.region_b.get(), client.worker_socket.get()}));
  ASSERT_EQ(channel.type(), link::Body::ChannelReady);
  EXPECT_EQ(client.worker_page().magic, kWorkerPageMagic);
  EXPECT_EQ(client.worker_page().worker_incarnation, 99u);
  client.worker_socket.reset();
  const LinkMessage opened = ask_open_lane(channel_id, lane, 1, model_id);
  ASSERT_EQ(opened.type(), link::Body::LaneReady);
}

LinkMessage SupervisorEnd::map_arena(std::uint32_t arena_id, const UniqueFd& memfd,
                                     std::uint64_t byte_size) {
  return answer_to(send(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateMapArena(builder, arena_id, byte_size);
      },
      {memfd.get()}));
}

std::uint64_t SupervisorEnd::send_bind(const Binding& binding) {
  return send([&](flatbuffers::FlatBufferBuilder& builder) {
    return link::CreateBindSession(builder, binding.connection_id, binding.handle, binding.model_id,
                                   binding.arena_id, builder.CreateVector(binding.offsets),
                                   binding.initialise, binding.arena_bytes - kSessionRecordBytes);
  });
}

}  // namespace bucketd::testing
