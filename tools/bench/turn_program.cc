#include "tools/bench/turn_program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <vector>

#include "tools/bench/cpu.h"
#include "tools/bench/turn_protocol.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

// Reports go to the standard output that the bench gave us; what libraries print must not.
int report_fd = STDOUT_FILENO;

bool read_all(void* to, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ssize_t got = ::read(STDIN_FILENO, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(const void* from, std::size_t bytes) {
  const auto* at = static_cast<const std::byte*>(from);
  while (bytes > 0) {
    const ssize_t put = ::write(report_fd, at, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    bytes -= static_cast<std::size_t>(put);
  }
  return true;
}

bool report(const std::vector<std::int64_t>& samples, const std::string& problem,
            const TurnCaller* caller) {
  const nanoseconds server =
      caller != nullptr && caller->server_cpu ? caller->server_cpu() : nanoseconds(0);
  const TurnReport head{samples.size(), problem.size(), own_cpu_time().count(), server.count()};
  return write_all(&head, sizeof(head)) &&
         write_all(samples.data(), samples.size() * sizeof(std::int64_t)) &&
         write_all(problem.data(), problem.size());
}

// What failed; empty if nothing did.
std::string take_turn(const TurnCaller& caller, const TurnOrder& order,
                      std::vector<std::int64_t>& samples) {
  for (std::uint64_t i = 0; i < order.warm_up; ++i) {
    if (const auto took = caller.call(); !took) return took.error().to_string();
  }
  if (caller.begin_timed) caller.begin_timed();
  const Clock::time_point end = Clock::now() + nanoseconds(order.duration_ns);
  while (order.duration_ns != 0 ? Clock::now() < end : samples.size() < order.calls) {
    const auto took = caller.call();
    if (!took) return took.error().to_string();
    samples.push_back(took->count());
  }
  return {};
}

}  // namespace

int serve_turns(const std::function<Result<TurnCaller>()>& make) {
  report_fd = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  const Result<TurnCaller> caller = make();
  if (!caller) {
    report({}, caller.error().to_string(), nullptr);
    return 1;
  }
  std::vector<std::int64_t> samples;
  if (!report(samples, {}, &*caller)) return 1;
  TurnOrder order;
  while (read_all(&order, sizeof(order))) {
    samples.clear();
    samples.reserve(order.calls);
    if (caller->begin_turn) caller->begin_turn();
    const std::string problem = take_turn(*caller, order, samples);
    if (caller->end_turn) caller->end_turn();
    if (!report(samples, problem, &*caller)) return 1;
    if (!problem.empty()) return 1;
  }
  return 0;
}

}  // namespace bucketd
