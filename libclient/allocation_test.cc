// The request path allocates nothing of its own once it has seen a signature.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "libclient/testing/session_client.h"

namespace {

// Of this thread: the fake daemon's threads allocate as they like.
thread_local std::size_t allocations = 0;

void* counted(std::size_t bytes) {
  ++allocations;
  void* const memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Not inlined, since GCC warns when it sees one of a pair through and the other not.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return counted(bytes); }
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return counted(bytes); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace bucketd::testing {
namespace {

class AllocationTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, AllocationTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(AllocationTest, repeated_requests_allocate_nothing) {
  Client client = connect();
  Model model = get(client.open("echo"));
  const std::vector<std::int64_t> ids = ids_from(1, 5);
  const std::vector<float> scores = scores_from(1, 5);
  const auto call = [&] {
    Result<Request> request = model.new_request({{1, 5}, {1, 5}});
    request->input<std::int64_t>(0).copy_from(ids);
    request->input<float>(1).copy_from(scores);
    const Result<Reply> reply = std::move(*request).run();
    return reply->output<std::int64_t>(0)(0, 4);
  };
  EXPECT_EQ(call(), 5);
  EXPECT_EQ(call(), 5);
  const std::size_t before = allocations;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(call(), 5);
  EXPECT_EQ(allocations, before);
}

TEST_P(AllocationTest, repeated_requests_of_a_session_allocate_nothing_and_ask_nothing) {
  daemon.add_model(stateful_model());
  Client client = connect();
  Model model = get(client.open("stateful"));
  Session session = get(model.open_session());
  const std::vector<std::int64_t> ids = ids_from(1, 5);
  const std::vector<float> scores = scores_from(1, 5);
  const auto call = [&] {
    Result<Request> request = session.new_request({{1, 5}, {1, 5}});
    request->input<std::int64_t>(0).copy_from(ids);
    request->input<float>(1).copy_from(scores);
    const Result<Reply> reply = std::move(*request).run();
    return reply->output<std::int64_t>(0)(0, 4);
  };
  EXPECT_EQ(call(), 5);
  EXPECT_EQ(call(), 5);
  const std::size_t asked = daemon.session_messages().size();
  const std::size_t before = allocations;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(call(), 5);
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(daemon.session_messages().size(), asked);
}

}  // namespace
}  // namespace bucketd::testing
