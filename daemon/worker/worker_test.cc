// The worker as its supervisor sees it.
#include "daemon/worker/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/monotonic_clock.h"
#include "daemon/worker/testing/serving.h"
#include "daemon/worker/testing/supervisor_end.h"

namespace bucketd {
namespace {

using flatbuffers::FlatBufferBuilder;
using ::testing::ElementsAre;
using testing::Gate;
using ::testing::HasSubstr;
using testing::LinkMessage;
using testing::pad_model;
using testing::RingClient;
using testing::RingClientLane;
using testing::SupervisorEnd;
using testing::tensor;
using testing::TestAnswer;

const testing::TestTensor kInput = tensor<std::int64_t>({1, 2}, {1, 2});

// Models by name: "plain"; "gated" stops at the gate; "slow" stops there while loading; "kv" has
// state; "huge" describes itself in more than a message holds; anything else fails.
class WorkerTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<BucketModel>> make_model(const std::string& name) {
    loading_seen = worker.status().loading.load();
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    ::sched_getaffinity(0, sizeof(cpus), &cpus);
    cpus_seen = CPU_COUNT(&cpus);
    if (name == "slow") gate.pass();
    if (name == "plain" || name == "slow")
      return std::make_unique<testing::FakeModel>(pad_model(name, {4, 8}));
    if (name == "gated") {
      return std::make_unique<testing::FakeModel>(pad_model(name, {4, 8}), [this](const auto&) {
        gate.pass();
        return Status();
      });
    }
    if (name == "kv") {
      ModelDescription model = pad_model(name, {8});
      model.states = {{"cache", DType::kUint8, Shape{16}, std::nullopt}};
      model.buckets[0].states = {Shape{16}};
      return std::make_unique<testing::FakeModel>(model, [this](const auto& execution) {
        state_seen = std::to_integer<int>(execution.states[0].data[0]);
        gate.pass();
        return Status();
      });
    }
    if (name == "huge") {
      ModelDescription model = pad_model(name, {8});
      for (std::size_t i = 1; i < kMaxTensors; ++i) {
        model.outputs.push_back({"y" + std::to_string(i), DType::kInt64});
        model.buckets[0].outputs.push_back(Shape{1, 1, 1, 1, 1, 1, 1, 8});
      }
      model.buckets.resize(kMaxBuckets, model.buckets[0]);
      return std::make_unique<testing::FakeModel>(model);
    }
    return error(StatusCode::kDataLoss, "the artifact '" + name + "' is cut off");
  }

  LinkMessage close_channel(std::uint64_t channel_id) {
    return worker.answer_to(worker.send(
        [&](FlatBufferBuilder& builder) { return link::CreateCloseChannel(builder, channel_id); }));
  }

  Gate gate;
  int state_seen = -1;
  std::uint32_t loading_seen = 0;
  int cpus_seen = 0;
  SupervisorEnd worker{[this](const std::string& name) { return make_model(name); }};
};

std::string refusal(const LinkMessage& message) {
  const auto* refused = message.message().body_as_Refused();
  return refused != nullptr ? wire::from_wire(refused->status()).to_string() : "not refused";
}

TEST_F(WorkerTest, loads_a_model_and_answers_a_client) {
  worker.configure();
  const LinkMessage loaded = worker.load_model(5, "plain");
  ASSERT_EQ(loaded.type(), link::Body::ModelLoaded);
  EXPECT_EQ(loading_seen, 6u) << "the status page names the model that is being loaded";
  EXPECT_EQ(worker.status().loading.load(), 0u);
  EXPECT_EQ(cpus_seen, 1) << "the worker of one core runs on others too";
  EXPECT_EQ(loaded.message().body_as_ModelLoaded()->resident_bytes(), 4096u);
  const Result<ModelDescription> description =
      wire::from_wire(*loaded.message().body_as_ModelLoaded()->model());
  ASSERT_TRUE(description.has_value()) << description.error().to_string();
  EXPECT_EQ(*description, pad_model("plain", {4, 8}));

  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}));
  const std::optional<TestAnswer> answer = lane.wait();
  ASSERT_TRUE(answer.has_value());
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(worker.status().executors[0].completed.load(), 1u);
  EXPECT_TRUE(worker.end().ok());
}

TEST_F(WorkerTest, says_why_a_model_does_not_load_and_goes_on) {
  worker.configure();
  LinkMessage failed = worker.load_model(5, "broken");
  ASSERT_EQ(failed.type(), link::Body::ModelFailed);
  EXPECT_EQ(wire::from_wire(failed.message().body_as_ModelFailed()->status()).to_string(),
            "DATA_LOSS: the artifact 'broken' is cut off");
  failed = worker.load_model(5, "huge");
  ASSERT_EQ(failed.type(), link::Body::ModelFailed);
  EXPECT_THAT(wire::from_wire(failed.message().body_as_ModelFailed()->status()).message(),
              HasSubstr("its description is larger than a message"));
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  failed = worker.load_model(5, "plain");
  ASSERT_EQ(failed.type(), link::Body::ModelFailed);
  EXPECT_EQ(wire::from_wire(failed.message().body_as_ModelFailed()->status()).code(),
            StatusCode::kAlreadyExists);
}

TEST_F(WorkerTest, opens_lanes_and_answers_clients_while_another_model_loads) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  const UniqueFd artifact = std::move(*create_memfd("test-artifact", 4096));
  const std::uint64_t slow = worker.send(
      [](FlatBufferBuilder& builder) {
        return link::CreateLoadModel(builder, 6, builder.CreateString("slow"));
      },
      {artifact.get()});
  ASSERT_TRUE(gate.wait_for_visitors(1));
  EXPECT_EQ(worker.status().loading.load(), 7u);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, kInput);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kOk);
  gate.open();
  EXPECT_EQ(worker.answer_to(slow).type(), link::Body::ModelLoaded);
}

TEST_F(WorkerTest, refuses_a_channel_for_which_it_has_no_descriptors_left_and_goes_on) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd lowest_free(::dup(0));
  rlimit none_left = before;
  none_left.rlim_cur = static_cast<rlim_t>(lowest_free.get()) + 1;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none_left), 0);
  const LinkMessage answer = worker.answer_to(worker.send(
      [](FlatBufferBuilder& builder) { return link::CreateOpenChannel(builder, 11, 11); },
      {client.region_a.get(), client.region_b.get(), client.worker_socket.get()}));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_EQ(answer.type(), link::Body::Refused);
  EXPECT_THAT(refusal(answer), HasSubstr("run out of descriptors"));
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, kInput);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kOk);
}

TEST_F(WorkerTest, loads_in_a_probe_without_executors) {
  worker.configure(1, link::WorkerMode::kProbe);
  EXPECT_EQ(worker.load_model(1, "plain").type(), link::Body::ModelLoaded);
  EXPECT_TRUE(worker.end().ok());
}

TEST_F(WorkerTest, refuses_lanes_that_cannot_be) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  EXPECT_THAT(refusal(worker.ask_open_lane(11, lane, 1, 5)), HasSubstr("channel 11 is not open"));
  worker.open_lane(11, client, lane, 5);
  EXPECT_THAT(refusal(worker.ask_open_lane(11, lane, 1, 5)), HasSubstr("has a lane 1 already"));
  EXPECT_THAT(refusal(worker.ask_open_lane(11, lane, 2, 6)), HasSubstr("no model has number 6"));
  RingClientLane other(client, 4, 8192, 4096);
  other.region_a = std::move(lane.region_a);
  EXPECT_THAT(refusal(worker.ask_open_lane(11, other, 2, 5)), HasSubstr("region A"));
}

TEST_F(WorkerTest, reports_a_violation) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.header().submission_tail.store(99);
  client.ring_if_needed();
  const LinkMessage message = worker.receive();
  ASSERT_EQ(message.type(), link::Body::Violation);
  EXPECT_EQ(message.message().request_id(), 0u);
  EXPECT_EQ(message.message().body_as_Violation()->channel_id(), 11u);
  EXPECT_EQ(close_channel(11).type(), link::Body::ChannelClosed);
}

TEST_F(WorkerTest, answers_the_closing_of_a_channel_when_its_running_request_has_ended) {
  worker.configure(2);
  ASSERT_EQ(worker.load_model(5, "gated").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, kInput);
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t id =
      worker.send([](FlatBufferBuilder& builder) { return link::CreateCloseChannel(builder, 11); });
  // The control thread goes on meanwhile.
  ASSERT_EQ(worker.load_model(6, "plain").type(), link::Body::ModelLoaded);
  EXPECT_FALSE(worker.has_message());
  gate.open();
  const LinkMessage closed = worker.answer_to(id);
  ASSERT_EQ(closed.type(), link::Body::ChannelClosed);
  EXPECT_EQ(closed.message().body_as_ChannelClosed()->channel_id(), 11u);
}

TEST_F(WorkerTest, closes_a_lane_and_leaves_the_others_of_its_channel) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  RingClientLane other(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  ASSERT_EQ(worker.ask_open_lane(11, other, 2, 5).type(), link::Body::LaneReady);
  const LinkMessage closed = worker.answer_to(worker.send(
      [](FlatBufferBuilder& builder) { return link::CreateCloseLane(builder, 11, 1); }));
  ASSERT_EQ(closed.type(), link::Body::LaneClosed);
  EXPECT_EQ(lane.worker_header().closed.load(), 1u);
  other.submit(0, 1, kInput);
  EXPECT_EQ(other.wait()->status(), StatusCode::kOk);
  EXPECT_EQ(other.worker_header().closed.load(), 0u);
}

TEST_F(WorkerTest, unloads_a_model_after_its_requests_in_flight) {
  worker.configure(2);
  ASSERT_EQ(worker.load_model(5, "gated").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, kInput);
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t id =
      worker.send([](FlatBufferBuilder& builder) { return link::CreateUnloadModel(builder, 5); });
  RingClientLane late(client, 4, 4096, 4096);
  EXPECT_THAT(refusal(worker.ask_open_lane(11, late, 2, 5)), HasSubstr("no model has number 5"));
  gate.open();
  const LinkMessage event = worker.receive();
  ASSERT_EQ(event.type(), link::Body::LaneClosed);
  EXPECT_EQ(event.message().request_id(), 0u);
  EXPECT_EQ(event.message().body_as_LaneClosed()->lane_id(), 1u);
  const LinkMessage unloaded = worker.answer_to(id);
  ASSERT_EQ(unloaded.type(), link::Body::ModelUnloaded);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kOk);
  EXPECT_EQ(lane.worker_header().closed.load(), 1u);
  EXPECT_THAT(refusal(worker.answer_to(worker.send(
                  [](FlatBufferBuilder& builder) { return link::CreateUnloadModel(builder, 5); }))),
              HasSubstr("no model has number 5"));
}

TEST_F(WorkerTest, drains) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "gated").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  lane.submit(0, 1, kInput);
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t id =
      worker.send([](FlatBufferBuilder& builder) { return link::CreateDrain(builder); });
  ASSERT_EQ(worker.load_model(6, "plain").type(), link::Body::ModelLoaded);
  EXPECT_FALSE(worker.has_message());
  gate.open();
  EXPECT_EQ(worker.answer_to(id).type(), link::Body::Drained);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kOk);
}

TEST_F(WorkerTest, binds_sessions_to_state_memory_and_lets_go_of_it) {
  worker.configure(2);
  ASSERT_EQ(worker.load_model(5, "kv").type(), link::Body::ModelLoaded);
  RingClient client;
  RingClientLane lane(client, 4, 4096, 4096);
  worker.open_lane(11, client, lane, 5);
  const UniqueFd arena = std::move(*create_memfd("test-arena", 8192));
  MappedRegion map = std::move(*map_memfd(arena.get(), 8192, MapAccess::kReadOnly));
  EXPECT_EQ(worker.map_arena(1, arena, 8192).type(), link::Body::Acknowledged);
  const auto bind = [&](std::uint64_t handle, std::vector<std::uint64_t> offsets) {
    return worker.bind({.connection_id = 11,
                        .handle = handle,
                        .model_id = 5,
                        .arena_id = 1,
                        .arena_bytes = 8192,
                        .offsets = offsets,
                        .initialise = true});
  };
  EXPECT_THAT(refusal(bind(7, {})), HasSubstr("0 places for the 1 states"));
  EXPECT_THAT(refusal(bind(7, {8192 - 8})), HasSubstr("does not lie aligned within"));
  EXPECT_THAT(refusal(bind(7, {8192})), HasSubstr("does not lie aligned within"));
  EXPECT_THAT(refusal(bind(7, {~std::uint64_t{63}})), HasSubstr("does not lie aligned within"));
  ASSERT_EQ(bind(7, {4096}).type(), link::Body::Acknowledged);
  EXPECT_THAT(refusal(bind(7, {0})), HasSubstr("session 7 is bound already"));

  const auto* state = static_cast<const std::byte*>(map.get_address()) + 4096;
  EXPECT_EQ(state[0], std::byte{100}) << "initial values";
  SubmissionEntry entry{};
  entry.session_handle = 7;
  lane.submit(0, 1, kInput, entry);
  ASSERT_TRUE(gate.wait_for_visitors(1));
  EXPECT_EQ(state_seen, 100);
  for (std::size_t i = 0; i < 2; ++i) {
    const ExecutorStatus& executor = worker.status().executors[i];
    if (executor.state.load() != static_cast<std::uint32_t>(ExecutorState::kExecuting)) continue;
    EXPECT_EQ(executor.session_handle.load(), 7u);
    EXPECT_EQ(executor.kind.load(), static_cast<std::uint32_t>(ExecutionKind::kRequest));
  }
  const std::uint64_t release = worker.send(
      [](FlatBufferBuilder& builder) { return link::CreateReleaseSession(builder, 11, 7); });
  ASSERT_EQ(worker.load_model(6, "plain").type(), link::Body::ModelLoaded);
  EXPECT_FALSE(worker.has_message()) << "acknowledged while a request uses the memory";
  gate.open();
  EXPECT_EQ(worker.answer_to(release).type(), link::Body::Acknowledged);
  EXPECT_EQ(state[0], std::byte{101});
  EXPECT_EQ(lane.wait()->status(), StatusCode::kOk);
  lane.submit(0, 2, kInput, entry);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kNotFound);
}

TEST_F(WorkerTest, serves_stream_lanes) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  testing::StreamClient client;
  const wire::LaneLayout layout = wire::to_wire(*make_lane_layout(2, 4096, 4096));
  const LinkMessage opened = worker.answer_to(worker.send(
      [&](FlatBufferBuilder& builder) {
        return link::CreateOpenLane(builder, 21, 1, 5, link::Transport::kStream, &layout, 4096, 9);
      },
      {client.worker_socket.get()}));
  ASSERT_EQ(opened.type(), link::Body::LaneReady) << refusal(opened);
  client.worker_socket.reset();
  ASSERT_TRUE(client.submit(1, kInput));
  EXPECT_EQ(client.wait()->status(), StatusCode::kOk);
  const LinkMessage closed = worker.answer_to(worker.send(
      [](FlatBufferBuilder& builder) { return link::CreateCloseLane(builder, 21, 1); }));
  EXPECT_EQ(closed.type(), link::Body::LaneClosed);
  EXPECT_TRUE(client.wait_for_end());
}

TEST_F(WorkerTest, tells_when_a_client_has_ended_its_stream) {
  worker.configure();
  ASSERT_EQ(worker.load_model(5, "plain").type(), link::Body::ModelLoaded);
  testing::StreamClient client;
  const wire::LaneLayout layout = wire::to_wire(*make_lane_layout(2, 4096, 4096));
  const std::uint64_t id = worker.send(
      [&](FlatBufferBuilder& builder) {
        return link::CreateOpenLane(builder, 21, 1, 5, link::Transport::kStream, &layout, 4096, 9);
      },
      {client.worker_socket.get()});
  ASSERT_EQ(worker.answer_to(id).type(), link::Body::LaneReady);
  client.worker_socket.reset();
  client.close();
  const LinkMessage event = worker.receive();
  ASSERT_EQ(event.type(), link::Body::LaneClosed);
  EXPECT_EQ(event.message().request_id(), 0u);
  EXPECT_EQ(event.message().body_as_LaneClosed()->channel_id(), 21u);
}

TEST_F(WorkerTest, ends_on_what_is_no_message) {
  worker.configure();
  const std::vector<std::byte> garbage(100, std::byte{0xEE});
  worker.send_bytes(garbage);
  const Status status = worker.end();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
}

TEST_F(WorkerTest, ends_when_it_is_asked_before_it_is_configured) {
  worker.send([](FlatBufferBuilder& builder) { return link::CreateDrain(builder); });
  EXPECT_EQ(worker.end().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace bucketd
