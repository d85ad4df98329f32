#include "daemon/worker/stream_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "daemon/worker/testing/serving.h"
#include "daemon/worker/testing/stream_client.h"

namespace bucketd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::make_frame;
using testing::pad_model;
using testing::Serving;
using testing::StreamClient;
using testing::tensor;
using testing::TestAnswer;

constexpr std::uint64_t kMaxBody = 8192;

class StreamServerTest : public ::testing::Test {
 protected:
  StreamServerTest() : server_(std::move(*StreamServer::make(serving.scheduler(), nullptr))) {}

  // Connects a client; returns the flag that its lane is gone.
  GoneNotice::Flag connect(StreamClient& client, const std::shared_ptr<LoadedModel>& model,
                           std::uint32_t slots = 2, std::uint64_t channel_id = 77) {
    auto flag = std::make_shared<std::atomic<bool>>(false);
    auto channel = std::make_shared<Channel>(channel_id, channel_id, GoneNotice());
    auto lane = std::make_shared<StreamLane>(channel, 1, model, slots, kMaxBody, 16,
                                             server_->mailbox(), GoneNotice(flag, nullptr));
    serving.scheduler().add_stream_channel(channel);
    EXPECT_TRUE(serving.scheduler().add_lane(lane));
    server_->add(std::move(lane), std::move(client.worker_socket));
    return flag;
  }

  Serving serving{{.executors = 2}};
  StreamClient client;
  std::unique_ptr<StreamServer> server_;
};

TEST_F(StreamServerTest, answers_raw_and_padded_requests_as_a_ring_does) {
  connect(client, serving.add_model(pad_model("m", {4, 8}, 9)));
  SubmissionEntry entry{};
  entry.slot = 4321;
  ASSERT_TRUE(client.submit(7, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}), entry));
  const std::optional<TestAnswer> raw = client.wait();
  ASSERT_TRUE(raw.has_value());
  ASSERT_EQ(raw->status(), StatusCode::kOk) << raw->message;
  EXPECT_EQ(raw->entry.user_data, 7u);
  EXPECT_EQ(raw->entry.slot, 4321u) << "the client's own number is echoed";
  EXPECT_THAT(raw->cropped<std::int64_t>(0), ElementsAre(1, 2, 3, 4, 5));
  ASSERT_TRUE(raw->plan.has_value());

  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = raw->plan->plan_id;
  ASSERT_TRUE(client.submit(8, tensor<std::int64_t>({1, 5}, {5, 4, 3, 2, 1, 9, 9, 9}), entry));
  const std::optional<TestAnswer> padded = client.wait();
  ASSERT_EQ(padded->status(), StatusCode::kOk) << padded->message;
  EXPECT_THAT(padded->cropped<std::int64_t>(0), ElementsAre(5, 4, 3, 2, 1));

  ASSERT_TRUE(client.submit(9, tensor<std::int64_t>({1, 9}, std::vector<std::int64_t>(9))));
  EXPECT_EQ(client.wait()->message,
            "model 'm', input 0 'x', dimension 1: size 9 is above the largest bucket's 8");
}

TEST_F(StreamServerTest, puts_frames_together_that_come_byte_by_byte) {
  connect(client, serving.add_model(pad_model("m", {8})));
  const auto input = tensor<std::int64_t>({1, 2}, {3, 4});
  const std::vector<std::byte> frame = make_frame(1, std::span(&input, 1));
  for (int round = 0; round < 3; ++round) {
    for (const std::byte& byte : frame) ASSERT_TRUE(client.send(std::span(&byte, 1)));
    const std::optional<TestAnswer> answer = client.wait();
    ASSERT_TRUE(answer.has_value());
    EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(3, 4));
  }
}

TEST_F(StreamServerTest, takes_many_frames_at_once_and_holds_no_more_than_its_slots) {
  testing::Gate gate;
  connect(client, serving.add_model(pad_model("m", {8}), [&](const auto&) {
    gate.pass();
    return Status();
  }));
  std::vector<std::byte> frames;
  for (std::int64_t i = 0; i < 10; ++i) {
    const auto input = tensor<std::int64_t>({1, 1}, {i});
    const std::vector<std::byte> frame =
        make_frame(static_cast<std::uint64_t>(i), std::span(&input, 1));
    frames.insert(frames.end(), frame.begin(), frame.end());
  }
  ASSERT_TRUE(client.send(frames));
  ASSERT_TRUE(gate.wait_for_visitors(2));  // two slots, two executors
  gate.open();
  std::set<std::uint64_t> answered;
  for (int i = 0; i < 10; ++i) {
    const std::optional<TestAnswer> answer = client.wait();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->cropped<std::int64_t>(0)[0],
              static_cast<std::int64_t>(answer->entry.user_data));
    answered.insert(answer->entry.user_data);
  }
  EXPECT_EQ(answered.size(), 10u);
}

TEST_F(StreamServerTest, ends_a_client_that_announces_a_frame_above_the_limit) {
  connect(client, serving.add_model(pad_model("m", {8})));
  const StreamFrameHeader header{kStreamFrameMagic,
                                 static_cast<std::uint32_t>(StreamFrameKind::kSubmit),
                                 sizeof(SubmissionEntry) + kMaxBody + 1};
  const SubmissionEntry entry{};
  ASSERT_TRUE(client.send(std::as_bytes(std::span(&header, 1))));
  ASSERT_TRUE(client.send(std::as_bytes(std::span(&entry, 1))));
  EXPECT_TRUE(client.wait_for_end());
  ASSERT_TRUE(serving.wait_for_violation());
  EXPECT_EQ(serving.violations()[0].first, 77u);
  EXPECT_THAT(serving.violations()[0].second, HasSubstr("a frame of 8257 bytes; 64 to 8256"));
}

TEST_F(StreamServerTest, ends_a_client_that_sends_something_else_than_frames) {
  connect(client, serving.add_model(pad_model("m", {8})));
  const std::vector<std::byte> garbage(200, std::byte{0x47});
  ASSERT_TRUE(client.send(garbage));
  EXPECT_TRUE(client.wait_for_end());
  ASSERT_TRUE(serving.wait_for_violation());
  EXPECT_THAT(serving.violations()[0].second, HasSubstr("no submission frame"));
}

TEST_F(StreamServerTest, answers_a_frame_that_ends_within_its_descriptors_with_an_error) {
  connect(client, serving.add_model(pad_model("m", {8})));
  StreamFrameHeader header{kStreamFrameMagic, static_cast<std::uint32_t>(StreamFrameKind::kSubmit),
                           sizeof(SubmissionEntry)};
  SubmissionEntry entry{};
  entry.tensor_count = 1;
  ASSERT_TRUE(client.send(std::as_bytes(std::span(&header, 1))));
  ASSERT_TRUE(client.send(std::as_bytes(std::span(&entry, 1))));
  const std::optional<TestAnswer> answer = client.wait();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status(), StatusCode::kInvalidArgument);
  EXPECT_THAT(answer->message, HasSubstr("ends within its 1 input descriptors"));
}

TEST_F(StreamServerTest, lets_a_request_end_whose_client_vanished) {
  testing::Gate gate;
  const auto gone = connect(client, serving.add_model(pad_model("m", {8}), [&](const auto&) {
    gate.pass();
    return Status();
  }));
  ASSERT_TRUE(client.submit(1, tensor<std::int64_t>({1, 1}, {1})));
  ASSERT_TRUE(gate.wait_for_visitors(1));
  client.close();
  while (serving.scheduler().find_channel(77) != nullptr) std::this_thread::yield();
  EXPECT_FALSE(gone->load());
  gate.open();
  while (!gone->load()) std::this_thread::yield();
}

TEST_F(StreamServerTest, is_not_held_up_by_a_client_that_does_not_read) {
  const auto model = serving.add_model(pad_model("m", {512}));
  connect(client, model, 8);
  StreamClient honest;
  connect(honest, model, 2, 78);
  // Far more than sockets hold: 8 MB each way.
  constexpr std::size_t kFrames = 2000;
  const auto input = tensor<std::int64_t>({1, 512}, std::vector<std::int64_t>(512));
  const std::vector<std::byte> frame = make_frame(1, std::span(&input, 1));
  std::atomic<std::size_t> sent = 0;
  std::thread sender([&] {
    while (sent < kFrames && client.send(frame)) ++sent;
  });
  const auto answered = [&] {
    return serving.status().executors[0].completed + serving.status().executors[1].completed;
  };
  while (answered() < 16) std::this_thread::yield();
  for (std::uint64_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(honest.submit(i, tensor<std::int64_t>({1, 1}, {5})));
    const std::optional<TestAnswer> answer = honest.wait();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->entry.user_data, i);
  }
  EXPECT_LT(sent, kFrames) << "answers that nobody reads are held without bound";
  for (std::size_t i = 0; i < kFrames; ++i) ASSERT_TRUE(client.wait().has_value()) << i;
  sender.join();
  EXPECT_EQ(sent, kFrames);
}

TEST_F(StreamServerTest, sends_what_is_answered_before_a_closed_lane_ends) {
  connect(client, serving.add_model(pad_model("m", {8})));
  ASSERT_TRUE(client.submit(1, tensor<std::int64_t>({1, 1}, {1})));
  ASSERT_TRUE(client.wait().has_value());
  const std::shared_ptr<Lane> lane = serving.scheduler().find_lane(77, 1);
  ASSERT_NE(lane, nullptr);
  serving.scheduler().close_lane(*lane);
  EXPECT_TRUE(client.wait_for_end());
  EXPECT_EQ(serving.scheduler().find_channel(77), nullptr);
}

}  // namespace
}  // namespace bucketd
