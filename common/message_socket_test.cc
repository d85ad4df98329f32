#include "common/message_socket.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <vector>

namespace bucketd {
namespace {

std::vector<std::byte> bytes_of(std::size_t count, int value) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class MessageSocketTest : public testing::Test {
 protected:
  MessageSocketTest() : pair_(std::move(make_socket_pair(SOCK_SEQPACKET).value())) {}
  SocketPair pair_;
};

TEST_F(MessageSocketTest, keeps_packets_apart_and_carries_descriptors) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd reading(ends[0]);
  const UniqueFd writing(ends[1]);
  ASSERT_TRUE(send_message(pair_.first.get(), bytes_of(10, 1)).ok());
  const int sent[] = {writing.get()};
  ASSERT_TRUE(send_message(pair_.first.get(), bytes_of(20, 2), sent).ok());

  const Result<ReceivedMessage> first = receive_message(pair_.second.get());
  ASSERT_TRUE(first);
  EXPECT_EQ(first->bytes, bytes_of(10, 1));
  EXPECT_TRUE(first->fds.empty());
  const Result<ReceivedMessage> second = receive_message(pair_.second.get());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->bytes, bytes_of(20, 2));
  ASSERT_EQ(second->fds.size(), 1u);
  EXPECT_EQ(::write(second->fds[0].get(), "x", 1), 1);
  char read = 0;
  EXPECT_EQ(::read(reading.get(), &read, 1), 1);
  EXPECT_EQ(read, 'x');
}

TEST_F(MessageSocketTest, an_empty_queue_and_a_closed_peer_are_told_apart) {
  EXPECT_EQ(receive_message(pair_.second.get()).error().code(), StatusCode::kWouldBlock);
  pair_.first.reset();
  EXPECT_EQ(receive_message(pair_.second.get()).error().code(), StatusCode::kUnavailable);
  EXPECT_EQ(send_message(pair_.second.get(), bytes_of(1, 1)).code(), StatusCode::kUnavailable);
}

TEST_F(MessageSocketTest, the_largest_packet_passes_and_a_larger_one_is_refused) {
  ASSERT_TRUE(send_message(pair_.first.get(), bytes_of(kMaxPacketBytes, 3)).ok());
  const Result<ReceivedMessage> received = receive_message(pair_.second.get());
  ASSERT_TRUE(received);
  EXPECT_EQ(received->bytes.size(), kMaxPacketBytes);
  EXPECT_EQ(send_message(pair_.first.get(), bytes_of(kMaxPacketBytes + 1, 3)).code(),
            StatusCode::kInvalidArgument);
}

TEST_F(MessageSocketTest,
       a_packet_that_a_rogue_peer_made_too_large_is_an_error_not_a_half_message) {
  const std::vector<std::byte> large = bytes_of(kMaxPacketBytes + 1, 4);
  ASSERT_EQ(::send(pair_.first.get(), large.data(), large.size(), 0),
            static_cast<ssize_t>(large.size()));
  EXPECT_EQ(receive_message(pair_.second.get()).error().code(), StatusCode::kInvalidArgument);
}

TEST_F(MessageSocketTest, unwanted_descriptors_are_closed) {
  const std::size_t before = open_descriptors();
  const int sent[] = {pair_.first.get(), pair_.first.get(), pair_.first.get()};
  ASSERT_TRUE(send_message(pair_.first.get(), bytes_of(1, 1), sent).ok());
  EXPECT_EQ(receive_message(pair_.second.get(), 0).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(MessageSocketTest, descriptors_that_found_no_room_are_told_and_the_message_survives) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int sent[] = {pair_.first.get(), pair_.first.get()};
  ASSERT_TRUE(send_message(pair_.first.get(), bytes_of(7, 1), sent).ok());
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Result<ReceivedMessage> received = receive_message(pair_.second.get());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(received) << received.error().to_string();
  EXPECT_EQ(received->bytes, bytes_of(7, 1));
  EXPECT_TRUE(received->fds.empty());
  EXPECT_TRUE(received->lost_fds);
}

TEST_F(MessageSocketTest, a_full_queue_would_block_and_loses_nothing) {
  std::size_t sent = 0;
  Status status;
  while ((status = send_message(pair_.first.get(), bytes_of(1000, 5))).ok()) ++sent;
  EXPECT_EQ(status.code(), StatusCode::kWouldBlock);
  std::size_t received = 0;
  while (receive_message(pair_.second.get())) ++received;
  EXPECT_EQ(received, sent);
}

}  // namespace
}  // namespace bucketd
