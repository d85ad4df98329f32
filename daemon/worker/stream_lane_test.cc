#include "daemon/worker/stream_lane.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>

#include "daemon/worker/testing/fake_backend.h"

namespace bucketd {
namespace {

using testing::pad_model;

constexpr std::uint32_t kSlots = 2;

// A lane without server and scheduler: the test is the stream thread and the executor.
class StreamLaneTest : public ::testing::Test {
 protected:
  StreamLaneTest()
      : mailbox(std::make_shared<StreamMailbox>(std::move(*EventFd::make()))),
        lane(std::make_shared<StreamLane>(
            std::make_shared<Channel>(77, 77, GoneNotice()), 1,
            std::make_shared<LoadedModel>(
                5, std::make_unique<testing::FakeModel>(pad_model("m", {4}))),
            kSlots, 4096, 16, mailbox, GoneNotice())) {}

  // As the executor does.
  void complete(std::uint32_t slot, std::uint64_t user_data, std::uint8_t mark) {
    std::memset(lane->output(slot).data(), mark, 100);
    CompletionEntry entry{};
    entry.slot = slot;
    entry.user_data = user_data;
    lane->complete(entry, 100);
  }
  bool is_thread_woken() const {
    pollfd waiting{mailbox->event.fd(), POLLIN, 0};
    return ::poll(&waiting, 1, 0) == 1;
  }

  const std::shared_ptr<StreamMailbox> mailbox;
  const std::shared_ptr<StreamLane> lane;
};

TEST_F(StreamLaneTest, gives_each_frame_a_slot_until_all_are_taken) {
  const std::optional<StreamLane::Filling> first = lane->fill(64, 1000);
  const std::optional<StreamLane::Filling> second = lane->fill(4096, 1000);
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->slot, second->slot) << "the client's own number decides nothing";
  EXPECT_LT(first->slot, kSlots);
  EXPECT_LT(second->slot, kSlots);
  EXPECT_EQ(lane->input(first->slot).data(), first->data);
  EXPECT_EQ(lane->input(first->slot).size(), 64u);
  EXPECT_EQ(lane->input(second->slot).size(), 4096u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second->data) % kTensorAlignment, 0u);
  EXPECT_FALSE(lane->has_free_slot());
  EXPECT_FALSE(lane->fill(64, 1000).has_value());
}

TEST_F(StreamLaneTest, answers_in_the_order_of_completion_with_the_clients_numbers) {
  const std::uint32_t first = lane->fill(64, 41)->slot;
  const std::uint32_t second = lane->fill(64, 42)->slot;
  ASSERT_TRUE(lane->begin(first));
  ASSERT_TRUE(lane->begin(second));
  EXPECT_FALSE(lane->next_answer().has_value());
  complete(second, 2, 0x22);
  complete(first, 1, 0x11);
  EXPECT_TRUE(is_thread_woken());
  for (const auto& [user_data, clients_slot, slot] :
       {std::tuple{2u, 42u, second}, std::tuple{1u, 41u, first}}) {
    const std::optional<StreamLane::Sending> answer = lane->next_answer();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->entry.user_data, user_data);
    EXPECT_EQ(answer->entry.slot, clients_slot);
    EXPECT_EQ(answer->slot, slot);
    ASSERT_EQ(answer->output.size(), 100u);
    EXPECT_EQ(answer->output[99], std::byte(user_data * 0x11));
  }
  EXPECT_FALSE(lane->next_answer().has_value());
}

TEST_F(StreamLaneTest, uses_a_slot_again_only_after_its_answer_was_sent) {
  for (std::uint64_t round = 0; round < 10; ++round) {
    const std::uint32_t first = lane->fill(64, 1)->slot;
    const std::uint32_t second = lane->fill(64, 2)->slot;
    ASSERT_TRUE(lane->begin(first));
    ASSERT_TRUE(lane->begin(second));
    EXPECT_FALSE(lane->begin(first)) << "in flight";
    complete(first, round, 1);
    const std::optional<StreamLane::Sending> answer = lane->next_answer();
    ASSERT_TRUE(answer.has_value());
    EXPECT_FALSE(lane->has_free_slot()) << "its answer is being sent";
    lane->free(answer->slot);
    EXPECT_TRUE(lane->has_free_slot());
    complete(second, round, 2);
    lane->free(lane->next_answer()->slot);
  }
}

TEST_F(StreamLaneTest, is_finished_when_it_is_closed_and_every_answer_was_given_out) {
  const std::uint32_t slot = lane->fill(64, 1)->slot;
  ASSERT_TRUE(lane->begin(slot));
  complete(slot, 1, 1);
  EXPECT_FALSE(lane->is_closed());
  lane->close();
  EXPECT_TRUE(lane->is_closed());
  EXPECT_FALSE(lane->is_finished());
  ASSERT_TRUE(lane->next_answer().has_value());
  EXPECT_TRUE(lane->is_finished());
  EXPECT_TRUE(is_thread_woken());
}

TEST_F(StreamLaneTest, wakes_the_stream_thread_once_for_answers_that_come_together) {
  const std::uint32_t first = lane->fill(64, 1)->slot;
  const std::uint32_t second = lane->fill(64, 2)->slot;
  complete(first, 1, 1);
  complete(second, 2, 2);
  const std::lock_guard lock(mailbox->mutex);
  EXPECT_EQ(mailbox->noted, std::vector<std::uint64_t>{77});
}

}  // namespace
}  // namespace bucketd
