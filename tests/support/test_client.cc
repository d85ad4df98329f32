// bucketd-test-client: a client process for tests with several of them. Calls model `multi` with
// sizes and values drawn from its seed, and checks every answer.
//
//   bucketd-test-client --socket PATH --calls N --seed S [--transport stream] [--survive-restarts]
//
// --calls 0: until it is killed. --survive-restarts: ABORTED and UNAVAILABLE are answers that a
// restart may cost; the call is made again. Exit code 0 when every answer was right.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>

#include "bucketd/client.h"

namespace {

using bucketd::StatusCode;

struct Arguments {
  std::string socket;
  std::uint64_t calls = 0;
  unsigned seed = 1;
  bucketd::Transport transport = bucketd::Transport::kRing;
  bool survive_restarts = false;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--survive-restarts") {
      arguments.survive_restarts = true;
      continue;
    }
    if (++i == argc) std::exit(2);
    if (name == "--socket") {
      arguments.socket = argv[i];
    } else if (name == "--calls") {
      arguments.calls = std::strtoull(argv[i], nullptr, 10);
    } else if (name == "--seed") {
      arguments.seed = static_cast<unsigned>(std::strtoul(argv[i], nullptr, 10));
    } else if (name == "--transport") {
      arguments.transport = std::string_view(argv[i]) == "stream" ? bucketd::Transport::kStream
                                                                  : bucketd::Transport::kRing;
    } else {
      std::exit(2);
    }
  }
  return arguments;
}

// One call with `size` elements of `value` and `mark`; an error, or what was wrong.
bucketd::Status call(bucketd::Model& model, std::int64_t size, float value, std::int64_t mark) {
  auto request = model.new_request({{1, size}, {1, size}});
  if (!request) return request.error();
  for (std::int64_t i = 0; i < size; ++i) {
    request->input<float>(0)(0, i) = value;
    request->input<std::int64_t>(1)(0, i) = mark;
  }
  const auto reply = std::move(*request).run();
  if (!reply) return reply.error();
  const auto weighted = reply->output<float>(0);
  const auto doubled = reply->output<std::int64_t>(1);
  if (weighted.shape() != bucketd::Shape{1, size} || doubled.shape() != bucketd::Shape{1, size}) {
    return {StatusCode::kInternal, "outputs of another shape"};
  }
  for (std::int64_t i = 0; i < size; ++i) {
    if (weighted(0, i) != value * static_cast<float>(mark) || doubled(0, i) != 2 * mark) {
      return {StatusCode::kInternal, "a wrong answer at element " + std::to_string(i)};
    }
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  auto client = bucketd::Client::connect({.socket_path = arguments.socket,
                                          .transport = arguments.transport,
                                          .connect_timeout = std::chrono::seconds(60)});
  if (!client) {
    std::fprintf(stderr, "connect: %s\n", client.error().to_string().c_str());
    return 1;
  }
  auto model = client->open("multi");
  if (!model) {
    std::fprintf(stderr, "open: %s\n", model.error().to_string().c_str());
    return 1;
  }
  std::mt19937 random(arguments.seed);
  for (std::uint64_t i = 0; arguments.calls == 0 || i < arguments.calls; ++i) {
    const auto size = static_cast<std::int64_t>(1 + random() % 8);
    const auto value = static_cast<float>(random() % 1000);
    const auto mark = static_cast<std::int64_t>(random() % 1000);
    bucketd::Status status = call(*model, size, value, mark);
    while (arguments.survive_restarts &&
           (status.code() == StatusCode::kAborted || status.code() == StatusCode::kUnavailable)) {
      std::printf("again: %s\n", status.to_string().c_str());
      status = call(*model, size, value, mark);
    }
    if (!status.ok()) {
      std::fprintf(stderr, "call %llu: %s\n", static_cast<unsigned long long>(i),
                   status.to_string().c_str());
      return 1;
    }
    if (i == 0) {  // for tests that wait until it is at work
      std::printf("first answer\n");
      std::fflush(stdout);
    }
  }
  return 0;
}
