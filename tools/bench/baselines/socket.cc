// A Unix socket with the tensor inline: one copy into the kernel, one out of it.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <vector>

#include "common/fd.h"
#include "common/system_error.h"
#include "tools/bench/baselines/baseline_program.h"
#include "tools/bench/baselines/served_model.h"
#include "tools/bench/cpu.h"
#include "tools/bench/turn_program.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kAnswerBytes = 64;

bool send_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

bool receive_all(int fd, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

void serve(int fd, const BaselineOptions& options) {
  Result<ServedModel> model = ServedModel::load(options.artifact);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().to_string().c_str());
    return;
  }
  std::vector<std::byte> input(options.bytes);
  while (receive_all(fd, input)) {
    const Result<std::span<const std::byte>> answer = model->answer(input);
    if (!answer || !send_all(fd, *answer)) return;
  }
}

Result<TurnCaller> make_caller(const BaselineOptions& options) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return error(status_from_errno("make a socket pair", errno));
  }
  const auto ours = std::make_shared<UniqueFd>(ends[0]);
  const UniqueFd theirs(ends[1]);
  Result<BaselineServer> server = BaselineServer::start(options, [&] {
    ours->reset();
    serve(theirs.get(), options);
  });
  if (!server) return error(server.error());
  const auto kept = std::make_shared<BaselineServer>(std::move(*server));
  const auto input = std::make_shared<std::vector<float>>(options.bytes / sizeof(float));

  TurnCaller caller;
  caller.call = [ours, input]() -> Result<nanoseconds> {
    std::array<std::byte, kAnswerBytes> answer;
    const Clock::time_point started = Clock::now();
    std::fill(input->begin(), input->end(), 1.0F);
    if (!send_all(ours->get(), std::as_bytes(std::span(*input))) ||
        !receive_all(ours->get(), answer)) {
      return error(StatusCode::kUnavailable, "the socket's server ended");
    }
    return Clock::now() - started;
  };
  caller.server_cpu = [kept] { return cpu_time_of(kept->pid()); };
  return caller;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  const bucketd::BaselineOptions options = bucketd::parse_baseline_options(
      argc, argv, "Calls a model behind a Unix socket, the tensor inline.");
  return bucketd::serve_turns([&options] { return bucketd::make_caller(options); });
}
