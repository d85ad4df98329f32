// Sessions as the supervisor sees them: operations in their order, sharing, arenas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "common/monotonic_clock.h"
#include "daemon/link/session_record.h"
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

const testing::TestTensor kInput = tensor<std::int64_t>({1, 2}, {1, 2});
constexpr std::uint64_t kArenaBytes = 8192;
constexpr std::uint64_t kHandle = 7;

StatusCode refusal_code(const LinkMessage& message) {
  const auto* refused = message.message().body_as_Refused();
  return refused != nullptr ? wire::from_wire(refused->status()).code() : StatusCode::kOk;
}
std::string refusal_text(const LinkMessage& message) {
  const auto* refused = message.message().body_as_Refused();
  return refused != nullptr ? wire::from_wire(refused->status()).message() : "not refused";
}

// Model 5, "kv", has a state of 16 bytes, of which a request adds one to the first and the initial
// value is 100; its requests stop at the gate. Model 6, "plain", has none. Client 11 has a lane to
// model 5 and session 7 at the start of arena 1.
class WorkerOperationsTest : public ::testing::Test {
 protected:
  WorkerOperationsTest()
      : arena_fd(std::move(*create_memfd("test-arena", kArenaBytes))),
        arena(std::move(*map_memfd(arena_fd.get(), kArenaBytes, MapAccess::kReadWrite))) {
    worker.configure(2);
    EXPECT_EQ(worker.load_model(5, "kv").type(), link::Body::ModelLoaded);
    EXPECT_EQ(worker.load_model(6, "plain").type(), link::Body::ModelLoaded);
    worker.open_lane(11, client, lane, 5);
    map_arena(1);
    EXPECT_EQ(bind(11, kHandle, 0, true).type(), link::Body::Acknowledged);
  }
  ~WorkerOperationsTest() override { gate.open(); }

  Result<std::unique_ptr<BucketModel>> make_model(const std::string& name) {
    ModelDescription model = pad_model(name, {8});
    if (name == "plain") return std::make_unique<testing::FakeModel>(model);
    model.states = {{"cache", DType::kUint8, Shape{16}, 0}};
    model.buckets[0].states = {Shape{16}};
    return std::make_unique<testing::FakeModel>(
        model,
        [this](const testing::FakeModel::Execution& execution) {
          {
            const std::lock_guard lock(mutex);
            seen.push_back(std::to_integer<int>(execution.states[0].data[0]));
          }
          gate.pass();
          return Status();
        },
        [this] {
          if (!fails_to_initialise.load()) return Status();
          for (const ExecutorStatus& executor : worker.status().executors) {
            if (executor.state.load() == static_cast<std::uint32_t>(ExecutorState::kExecuting)) {
              marked_session = executor.session_handle.load();
              marked_model = executor.model_id.load();
            }
          }
          return Status(StatusCode::kInternal, "the backend is out of order");
        });
  }

  void map_arena(std::uint32_t id) {
    EXPECT_EQ(worker.map_arena(id, arena_fd, kArenaBytes).type(), link::Body::Acknowledged);
  }
  LinkMessage bind(std::uint64_t connection, std::uint64_t handle, std::uint64_t offset,
                   bool initialise) {
    return worker.bind(binding(connection, handle, offset, initialise));
  }
  static SupervisorEnd::Binding binding(std::uint64_t connection, std::uint64_t handle,
                                        std::uint64_t offset, bool initialise) {
    return {.connection_id = connection,
            .handle = handle,
            .model_id = 5,
            .arena_id = 1,
            .arena_bytes = kArenaBytes,
            .offsets = {offset},
            .initialise = initialise};
  }
  std::uint64_t release(std::uint64_t connection) {
    return worker.send([&](FlatBufferBuilder& builder) {
      return link::CreateReleaseSession(builder, connection, kHandle);
    });
  }
  std::uint64_t operate(link::StateOperation operation, std::int64_t length = 0,
                        std::vector<std::uint64_t> offsets = {}, std::uint64_t connection = 11) {
    return worker.send([&](FlatBufferBuilder& builder) {
      return link::CreateOperateSession(builder, connection, kHandle, operation, 1,
                                        builder.CreateVector(offsets), length);
    });
  }
  // Everything sent before was handled: messages are, in their order.
  void wait_until_handled() {
    EXPECT_EQ(worker.load_model(6, "plain").type(), link::Body::ModelFailed);
  }
  static SubmissionEntry of_session() {
    SubmissionEntry entry{};
    entry.session_handle = kHandle;
    return entry;
  }
  int state(std::uint64_t offset = 0) const {
    return std::to_integer<int>(static_cast<const std::byte*>(arena.get_address())[offset]);
  }
  const SessionRecord& record() const {
    return *reinterpret_cast<const SessionRecord*>(
        static_cast<const std::byte*>(arena.get_address()) + kArenaBytes - kSessionRecordBytes);
  }
  std::vector<int> states_seen() {
    const std::lock_guard lock(mutex);
    return seen;
  }
  void wait_for_answers(RingClientLane& of, int count) {
    for (int i = 0; i < count; ++i) EXPECT_EQ(of.wait()->status(), StatusCode::kOk);
  }

  Gate gate;
  std::mutex mutex;
  std::vector<int> seen;  // the state's first byte as each request found it; guarded by mutex
  std::atomic<bool> fails_to_initialise{false};
  std::atomic<std::uint64_t> marked_session{0};
  std::atomic<std::uint32_t> marked_model{0};
  UniqueFd arena_fd;
  MappedRegion arena;
  RingClient client;
  RingClientLane lane{client, 8, 4096, 4096};
  SupervisorEnd worker{[this](const std::string& name) { return make_model(name); }};
};

TEST_F(WorkerOperationsTest, reset_truncate_and_copy_states) {
  gate.open();
  std::memset(arena.get_address(), 7, 16);
  EXPECT_EQ(worker.answer_to(operate(link::StateOperation::kCopyOut, 0, {4096})).type(),
            link::Body::Acknowledged);
  EXPECT_EQ(state(4096 + 15), 7);
  EXPECT_EQ(worker.answer_to(operate(link::StateOperation::kTruncate, 5)).type(),
            link::Body::Acknowledged);
  EXPECT_EQ(state(4), 7);
  EXPECT_EQ(state(5), 0);
  EXPECT_EQ(worker.answer_to(operate(link::StateOperation::kReset)).type(),
            link::Body::Acknowledged);
  EXPECT_EQ(state(0), 100);
  EXPECT_EQ(state(4), 0);
  EXPECT_EQ(worker.answer_to(operate(link::StateOperation::kCopyIn, 0, {4096})).type(),
            link::Body::Acknowledged);
  EXPECT_EQ(state(0), 7);
  EXPECT_EQ(state(15), 7);
}

TEST_F(WorkerOperationsTest, binding_a_session_holds_up_nothing_but_that_session) {
  ASSERT_EQ(bind(11, 8, 64, false).type(), link::Body::Acknowledged);
  SubmissionEntry of_another{};
  of_another.session_handle = 8;
  lane.submit(0, 1, kInput, of_session());
  lane.submit(1, 2, kInput, of_another);
  ASSERT_TRUE(gate.wait_for_visitors(2));
  // Both executors are busy. The control thread goes on: it writes no initial values itself.
  const std::uint64_t bound = worker.send_bind(binding(11, 9, 128, true));
  wait_until_handled();
  EXPECT_FALSE(worker.has_message());
  EXPECT_EQ(state(128), 0);
  SubmissionEntry early{};
  early.session_handle = 9;
  lane.submit(2, 3, kInput, early);
  wait_until_handled();
  gate.open();
  EXPECT_EQ(worker.answer_to(bound).type(), link::Body::Acknowledged);
  wait_for_answers(lane, 3);
  EXPECT_EQ(state(128), 101) << "a request that was taken before ran on other values";
}

TEST_F(WorkerOperationsTest, a_session_that_cannot_be_bound_may_be_bound_again) {
  gate.open();
  fails_to_initialise = true;
  EXPECT_THAT(refusal_text(bind(11, 8, 64, true)), HasSubstr("the backend is out of order"));
  fails_to_initialise = false;
  EXPECT_EQ(bind(11, 8, 64, true).type(), link::Body::Acknowledged);
  EXPECT_EQ(state(64), 100);
}

TEST_F(WorkerOperationsTest, requests_of_a_session_are_counted_in_its_record) {
  gate.open();
  EXPECT_EQ(record().requests.load(), 0u);
  EXPECT_EQ(record().last_request_ns.load(), 0u);
  const std::uint64_t before_ns = monotonic_ns();
  for (int i = 0; i < 3; ++i) {
    lane.submit(0, 1, kInput, of_session());
    wait_for_answers(lane, 1);
    EXPECT_EQ(record().requests.load(), static_cast<std::uint64_t>(i + 1)) << "answered before";
  }
  EXPECT_GE(record().last_request_ns.load(), before_ns);
  EXPECT_LE(record().last_request_ns.load(), monotonic_ns());
  // Operations are none; nor is what never ran.
  EXPECT_EQ(worker.answer_to(operate(link::StateOperation::kReset)).type(),
            link::Body::Acknowledged);
  SubmissionEntry late = of_session();
  late.deadline_ns = 1;
  lane.submit(0, 1, kInput, late);
  EXPECT_EQ(lane.wait()->status(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(record().requests.load(), 3u);
  // It goes on where another incarnation of the worker, so to say, ended.
  EXPECT_EQ(worker.answer_to(release(11)).type(), link::Body::Acknowledged);
  ASSERT_EQ(bind(11, kHandle, 0, false).type(), link::Body::Acknowledged);
  lane.submit(0, 1, kInput, of_session());
  wait_for_answers(lane, 1);
  EXPECT_EQ(record().requests.load(), 4u);
}

TEST_F(WorkerOperationsTest, refuses_what_cannot_be_done) {
  EXPECT_EQ(refusal_code(worker.answer_to(operate(link::StateOperation::kTruncate, 17))),
            StatusCode::kOutOfRange);
  EXPECT_THAT(refusal_text(worker.answer_to(operate(link::StateOperation::kCopyOut))),
              HasSubstr("0 places for the 1 states"));
  EXPECT_THAT(refusal_text(worker.answer_to(operate(link::StateOperation::kCopyIn, 0, {8192}))),
              HasSubstr("does not lie aligned within"));
  EXPECT_EQ(refusal_code(worker.answer_to(operate(link::StateOperation::kReset, 0, {}, 12))),
            StatusCode::kNotFound);
  EXPECT_EQ(refusal_code(worker.answer_to(operate(static_cast<link::StateOperation>(9)))),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(state(), 100);
}

TEST_F(WorkerOperationsTest, run_in_the_order_of_the_sessions_requests) {
  ASSERT_EQ(bind(11, 8, 64, true).type(), link::Body::Acknowledged);
  SubmissionEntry of_another{};
  of_another.session_handle = 8;
  lane.submit(0, 1, kInput, of_session());
  lane.submit(5, 6, kInput, of_another);
  ASSERT_TRUE(gate.wait_for_visitors(2));
  // Both executors are busy: these are in the ring when the operation comes.
  lane.submit(1, 2, kInput, of_session());
  lane.submit(2, 3, kInput, of_session());
  const std::uint64_t reset = operate(link::StateOperation::kReset);
  wait_until_handled();
  lane.submit(3, 4, kInput, of_session());
  const std::uint64_t copy = operate(link::StateOperation::kCopyOut, 0, {4096});
  wait_until_handled();
  lane.submit(4, 5, kInput, of_session());
  EXPECT_FALSE(worker.has_message()) << "done while a request of the session runs";
  gate.open();
  EXPECT_EQ(worker.answer_to(reset).type(), link::Body::Acknowledged);
  EXPECT_EQ(worker.answer_to(copy).type(), link::Body::Acknowledged);
  wait_for_answers(lane, 6);
  EXPECT_THAT(states_seen(), ElementsAre(100, 100, 101, 102, 100, 101));
  EXPECT_EQ(state(4096), 101);
}

TEST_F(WorkerOperationsTest, come_after_what_was_sent_on_a_stream) {
  testing::StreamClient stream;
  const wire::LaneLayout layout = wire::to_wire(*make_lane_layout(4, 4096, 4096));
  const LinkMessage opened = worker.answer_to(worker.send(
      [&](FlatBufferBuilder& builder) {
        return link::CreateOpenLane(builder, 21, 1, 5, link::Transport::kStream, &layout, 4096, 11);
      },
      {stream.worker_socket.get()}));
  ASSERT_EQ(opened.type(), link::Body::LaneReady) << refusal_text(opened);
  gate.open();
  for (int round = 0; round < 200; ++round) {
    ASSERT_TRUE(stream.submit(1, kInput, of_session()));
    ASSERT_TRUE(stream.submit(2, kInput, of_session()));
    ASSERT_EQ(worker.answer_to(operate(link::StateOperation::kReset)).type(),
              link::Body::Acknowledged);
    EXPECT_EQ(state(), 100) << "a request that was sent before ran after, round " << round;
    for (int i = 0; i < 2; ++i) ASSERT_EQ(stream.wait()->status(), StatusCode::kOk);
  }
}

TEST_F(WorkerOperationsTest, hold_up_no_other_client) {
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t reset = operate(link::StateOperation::kReset);
  wait_until_handled();
  RingClient other;
  RingClientLane other_lane(other, 4, 4096, 4096);
  worker.open_lane(12, other, other_lane, 6);
  other_lane.submit(0, 1, kInput);
  wait_for_answers(other_lane, 1);
  EXPECT_FALSE(worker.has_message());
  gate.open();
  EXPECT_EQ(worker.answer_to(reset).type(), link::Body::Acknowledged);
}

TEST_F(WorkerOperationsTest, are_cancelled_when_their_session_is_released) {
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t reset = operate(link::StateOperation::kReset);
  const std::uint64_t released = release(11);
  EXPECT_EQ(refusal_code(worker.answer_to(reset)), StatusCode::kCancelled);
  wait_until_handled();
  EXPECT_FALSE(worker.has_message()) << "released while a request runs";
  gate.open();
  EXPECT_EQ(worker.answer_to(released).type(), link::Body::Acknowledged);
  EXPECT_EQ(state(), 101);
  EXPECT_EQ(refusal_code(worker.answer_to(operate(link::StateOperation::kReset))),
            StatusCode::kNotFound);
}

TEST_F(WorkerOperationsTest, outlive_their_clients_channel) {
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t copy = operate(link::StateOperation::kCopyOut, 0, {4096});
  const std::uint64_t closed =
      worker.send([](FlatBufferBuilder& builder) { return link::CreateCloseChannel(builder, 11); });
  wait_until_handled();
  gate.open();
  for (int i = 0; i < 2; ++i) {
    const LinkMessage answer = worker.receive();
    const std::uint64_t id = answer.message().request_id();
    EXPECT_TRUE(id == copy || id == closed);
    EXPECT_NE(answer.type(), link::Body::Refused);
  }
  EXPECT_EQ(state(4096), 101);
}

TEST_F(WorkerOperationsTest, are_finished_by_a_drain_and_refused_after_it) {
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t reset = operate(link::StateOperation::kReset);
  const std::uint64_t drained =
      worker.send([](FlatBufferBuilder& builder) { return link::CreateDrain(builder); });
  const std::uint64_t late = operate(link::StateOperation::kReset);
  EXPECT_EQ(refusal_code(worker.answer_to(late)), StatusCode::kUnavailable);
  gate.open();
  EXPECT_EQ(worker.answer_to(reset).type(), link::Body::Acknowledged);
  EXPECT_EQ(worker.answer_to(drained).type(), link::Body::Drained);
}

TEST_F(WorkerOperationsTest, end_with_the_link) {
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  operate(link::StateOperation::kReset);
  wait_until_handled();
  gate.open();
  EXPECT_TRUE(worker.end().ok());
}

TEST_F(WorkerOperationsTest, that_fail_say_why_and_mark_their_session_while_they_run) {
  gate.open();
  fails_to_initialise = true;
  EXPECT_THAT(refusal_text(worker.answer_to(operate(link::StateOperation::kReset))),
              HasSubstr("the backend is out of order"));
  EXPECT_EQ(marked_session.load(), kHandle) << "a death would not leave the session torn";
  EXPECT_EQ(marked_model.load(), 5u);
  lane.submit(0, 1, kInput, of_session());
  wait_for_answers(lane, 1);
}

TEST_F(WorkerOperationsTest, a_handle_that_two_connections_bound_is_one_session) {
  RingClient other;
  RingClientLane other_lane(other, 4, 4096, 4096);
  worker.open_lane(12, other, other_lane, 5);
  other_lane.submit(0, 1, kInput, of_session());
  EXPECT_EQ(other_lane.wait()->status(), StatusCode::kNotFound) << "not bound there";
  EXPECT_THAT(refusal_text(bind(12, kHandle, 64, false)), HasSubstr("elsewhere"));
  EXPECT_THAT(refusal_text(bind(12, kHandle, 0, true)), HasSubstr("uses its values"));
  ASSERT_EQ(bind(12, kHandle, 0, false).type(), link::Body::Acknowledged);

  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  other_lane.submit(0, 2, kInput, of_session());
  const std::uint64_t copy = operate(link::StateOperation::kCopyOut, 0, {4096}, 12);
  wait_until_handled();
  EXPECT_EQ(gate.visitors(), 1) << "two requests of one session at once";
  const std::uint64_t released = release(11);
  wait_until_handled();
  EXPECT_FALSE(worker.has_message()) << "released while its request runs";
  gate.open_once();
  EXPECT_EQ(worker.answer_to(released).type(), link::Body::Acknowledged);
  ASSERT_TRUE(gate.wait_for_visitors(2));
  gate.open();
  EXPECT_EQ(worker.answer_to(copy).type(), link::Body::Acknowledged);
  wait_for_answers(lane, 1);
  wait_for_answers(other_lane, 1);
  EXPECT_EQ(state(), 102);
  EXPECT_EQ(state(4096), 102);

  // What 11 has no more, 12 still has.
  lane.submit(1, 3, kInput, of_session());
  EXPECT_EQ(lane.wait()->status(), StatusCode::kNotFound);
  other_lane.submit(1, 3, kInput, of_session());
  wait_for_answers(other_lane, 1);
  EXPECT_EQ(worker.answer_to(release(12)).type(), link::Body::Acknowledged);
  // It is nobody's now, and may be bound with initial values.
  EXPECT_EQ(bind(11, kHandle, 0, true).type(), link::Body::Acknowledged);
  EXPECT_EQ(state(), 100);
}

TEST_F(WorkerOperationsTest, a_session_that_is_bound_anew_waits_for_what_its_former_holder_runs) {
  RingClient other;
  RingClientLane other_lane(other, 4, 4096, 4096);
  worker.open_lane(12, other, other_lane, 5);
  RingClient plain;
  RingClientLane plain_lane(plain, 4, 4096, 4096);
  worker.open_lane(13, plain, plain_lane, 6);
  lane.submit(0, 1, kInput, of_session());
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const std::uint64_t released = release(11);
  ASSERT_EQ(bind(12, kHandle, 0, false).type(), link::Body::Acknowledged);
  other_lane.submit(0, 2, kInput, of_session());
  // The free executor takes turns between clients: it would stop at the gate.
  for (std::uint64_t i = 0; i < 3; ++i) {
    plain_lane.submit(0, i, kInput);
    ASSERT_TRUE(plain_lane.wait().has_value());
  }
  EXPECT_EQ(gate.visitors(), 1);
  gate.open();
  EXPECT_EQ(worker.answer_to(released).type(), link::Body::Acknowledged);
  wait_for_answers(lane, 1);
  wait_for_answers(other_lane, 1);
  EXPECT_THAT(states_seen(), ElementsAre(100, 101));
}

TEST_F(WorkerOperationsTest, an_arena_is_unmapped_when_no_session_lies_in_it) {
  gate.open();
  const auto unmap = [&](std::uint32_t id) {
    return worker.send(
        [&](FlatBufferBuilder& builder) { return link::CreateUnmapArena(builder, id); });
  };
  map_arena(2);
  EXPECT_EQ(worker.answer_to(unmap(2)).type(), link::Body::Acknowledged);
  EXPECT_EQ(refusal_code(worker.answer_to(unmap(2))), StatusCode::kNotFound);
  map_arena(2);
  const std::uint64_t unmapped = unmap(1);
  wait_until_handled();
  EXPECT_FALSE(worker.has_message()) << "unmapped under a session";
  const std::uint64_t released = release(11);
  EXPECT_EQ(worker.answer_to(unmapped).type(), link::Body::Acknowledged);
  EXPECT_EQ(worker.answer_to(released).type(), link::Body::Acknowledged);
  map_arena(1);
}

}  // namespace
}  // namespace bucketd
