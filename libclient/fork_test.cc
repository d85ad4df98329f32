#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "libclient/fork_awareness.h"
#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAllocatorSurvivesFork = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kAllocatorSurvivesFork = false;
#else
constexpr bool kAllocatorSurvivesFork = true;
#endif
#else
constexpr bool kAllocatorSurvivesFork = true;
#endif

// Runs `body` in a forked child and gives its verdict.
::testing::AssertionResult in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "the child ended with status " << status;
}

// What the open descriptors of this process are.
std::vector<std::string> open_files() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    files.push_back(std::filesystem::read_symlink(entry, ignored));
  }
  return files;
}

std::size_t count_starting_with(const std::vector<std::string>& all, const std::string& start) {
  return static_cast<std::size_t>(std::count_if(
      all.begin(), all.end(), [&](const std::string& one) { return one.starts_with(start); }));
}

bool has_channel_maps() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // The fake daemon of this very process maps the same files; its names are as the supervisor's.
    if (line.find("memfd:") != std::string::npos) return true;
  }
  return false;
}

class ForkTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, ForkTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(ForkTest, child_and_parent_go_on_with_their_own_connections) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_TRUE(in_child([&] {
    return echoes(model, 100, 5) && echoes(model, 200, 5) && get(client.models()).size() == 1;
  }));
  EXPECT_TRUE(echoes(model, 2, 3));
  EXPECT_EQ(daemon.connection_count(), 2u);
}

TEST_P(ForkTest, what_the_parent_has_in_flight_stays_the_parents) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const Reply reply = get(get(echo_request(model, 7, 4)).run());
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 8, 4)).submit());
  auto request = std::make_unique<Request>(get(echo_request(model, 9, 4)));
  daemon.wait_for_submissions(2);
  EXPECT_TRUE(in_child([&] {
    request.reset();
    { const Future dropped = std::move(future); }
    return true;
  }));
  EXPECT_EQ(model.free_slot_count(), 1u);
  daemon.release_answers();
  EXPECT_TRUE(is_echo_of(get(future.wait(patience())), 8, 4));
  EXPECT_TRUE(is_echo_of(get(std::move(*request).run()), 9, 4));
  EXPECT_TRUE(is_echo_of(reply, 7, 4));
}

TEST_P(ForkTest, child_keeps_no_socket_of_its_parents_connection) {
  std::size_t before = count_starting_with(open_files(), "socket:");
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(echoes(model, 1, 3));
  // The fake daemon's ends are this process's too; the client's alone must be gone.
  const std::size_t all = count_starting_with(open_files(), "socket:");
  // Control, and the channel's socket or the stream: two of the client's, two of the daemon's.
  ASSERT_EQ(all, before + 4);
  EXPECT_TRUE(in_child([&] { return count_starting_with(open_files(), "socket:") == all - 2; }));
}

TEST_P(ForkTest, handles_that_only_the_child_destroys_leave_the_parents_alone) {
  auto client = std::make_unique<Client>(connect());
  auto model = std::make_unique<Model>(get(client->open("echo")));
  EXPECT_TRUE(in_child([&] {
    model.reset();
    client.reset();
    return true;
  }));
  EXPECT_TRUE(echoes(*model, 1, 3));
}

TEST_P(ForkTest, description_is_known_in_the_child_before_it_connects) {
  Client client = connect();
  Model model = get(client.open("echo"));
  EXPECT_TRUE(in_child([&] { return model.description() == echo_model(); }));
}

TEST_P(ForkTest, fork_while_other_threads_are_calling_leaves_no_lock_behind) {
  if (!kAllocatorSurvivesFork) {
    GTEST_SKIP() << "a child forked while threads allocate can lock up in the address sanitizer's "
                    "own allocator";
  }
  Client client = connect();
  Model model = get(client.open("echo"));
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t, model]() mutable {
      for (int i = 0; !is_over; ++i) EXPECT_TRUE(echoes(model, 1000 * t + i, 1 + i % 16));
    });
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(in_child([&] { return bool(echoes(model, 5000 + i, 6)); }));
  }
  is_over = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_P(ForkTest, poll_fd_keeps_its_number_in_the_child) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const int fd = client.poll_fd();
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(in_child([&] {
    if (client.poll_fd() != fd) return false;
    Future future = get(get(echo_request(model, 5, 3)).submit());
    while (!future.ready()) {
      pollfd polled{fd, POLLIN, 0};
      if (::poll(&polled, 1, 30000) != 1) return false;
      client.dispatch();
    }
    return bool(is_echo_of(get(future.wait()), 5, 3));
  }));
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST(SharedMapTest, is_absent_from_a_forked_child) {
  const UniqueFd fd = get(create_memfd("fork-test", kPageBytes));
  const internal::SharedMap map =
      get(internal::SharedMap::map(fd.get(), kPageBytes, MapAccess::kReadWrite));
  ASSERT_TRUE(has_channel_maps());
  EXPECT_TRUE(in_child([] { return !has_channel_maps(); }));
}

TEST(ProcessFdTest, is_closed_in_a_forked_child_and_only_there) {
  internal::ProcessFd fd;
  {
    const internal::ForkLock lock;
    fd = internal::ProcessFd(lock, UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)));
  }
  const int number = fd.get();
  ASSERT_GE(number, 0);
  EXPECT_TRUE(in_child([&] {
    if (fd.is_open() || ::fcntl(number, F_GETFD) != -1) return false;
    // The number may be somebody else's by now: it must not be closed.
    const int stranger = ::open("/dev/zero", O_RDONLY);
    fd.reset();
    return ::fcntl(stranger, F_GETFD) != -1;
  }));
  EXPECT_NE(::fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace bucketd::testing
