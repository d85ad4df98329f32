// What tests of the client do over and over: connect to a FakeDaemon and call its echo model.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "libclient/testing/fake_daemon.h"

namespace bucketd::testing {

// Longer than anything takes that is going to happen.
inline Deadline patience() { return std::chrono::steady_clock::now() + std::chrono::seconds(30); }
inline Deadline already_over() { return std::chrono::steady_clock::now(); }

// The value, or the end of the test program with the error: nothing after it could work.
template <typename T>
T get(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().to_string();
    std::abort();
  }
  return std::move(*result);
}

template <typename T>
Status status_of(const Result<T>& result) {
  return result ? Status() : result.error();
}

inline ClientOptions options_for(const FakeDaemon& daemon, Transport transport = Transport::kRing) {
  ClientOptions options;
  options.socket_path = daemon.socket_path();
  options.transport = transport;
  options.reconnect_timeout = std::chrono::seconds(30);
  return options;
}

inline std::vector<std::int64_t> ids_from(std::int64_t first, std::int64_t size) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

inline std::vector<float> scores_from(std::int64_t first, std::int64_t size) {
  const std::vector<std::int64_t> ids = ids_from(first, size);
  return {ids.begin(), ids.end()};
}

// A request of `size` ids first, first + 1, ... and the same scores.
inline Result<Request> echo_request(Model& model, std::int64_t first, std::int64_t size,
                                    const RequestOptions& options = {}) {
  Result<Request> request = model.new_request({{1, size}, {1, size}}, options);
  if (!request) return request;
  request->input<std::int64_t>(0).copy_from(ids_from(first, size));
  request->input<float>(1).copy_from(scores_from(first, size));
  return request;
}

// Whether `reply` answers that request; says what is wrong.
inline ::testing::AssertionResult is_echo_of(const Reply& reply, std::int64_t first,
                                             std::int64_t size) {
  const std::int64_t bucket = size <= kSmallBucket ? kSmallBucket : kLargeBucket;
  std::vector<std::int64_t> ids = ids_from(first, size);
  std::vector<float> scores = scores_from(first, size);
  if (reply.output<std::int64_t>(0).to_vector() != ids) {
    return ::testing::AssertionFailure()
           << "ids are " << ::testing::PrintToString(reply.output<std::int64_t>(0).to_vector());
  }
  if (reply.output<float>(1).to_vector() != scores) {
    return ::testing::AssertionFailure()
           << "scores are " << ::testing::PrintToString(reply.output<float>(1).to_vector());
  }
  ids.resize(static_cast<std::size_t>(bucket), kIdFill);
  scores.insert(scores.begin(), static_cast<std::size_t>(bucket - size), kScoreFill);
  if (reply.full_output<std::int64_t>(0).to_vector() != ids) {
    return ::testing::AssertionFailure()
           << "padded ids are "
           << ::testing::PrintToString(reply.full_output<std::int64_t>(0).to_vector());
  }
  if (reply.full_output<float>(1).to_vector() != scores) {
    return ::testing::AssertionFailure()
           << "padded scores are "
           << ::testing::PrintToString(reply.full_output<float>(1).to_vector());
  }
  return ::testing::AssertionSuccess();
}

// A request to the end.
inline ::testing::AssertionResult echoes(Model& model, std::int64_t first, std::int64_t size) {
  Result<Request> request = echo_request(model, first, size);
  if (!request) return ::testing::AssertionFailure() << request.error().to_string();
  request->set_deadline(patience());
  const Result<Reply> reply = std::move(*request).run();
  if (!reply) return ::testing::AssertionFailure() << reply.error().to_string();
  return is_echo_of(*reply, first, size);
}

// Tests of both transports.
class BothTransports : public ::testing::TestWithParam<Transport> {
 protected:
  explicit BothTransports(FakeDaemonOptions options = {}) : daemon(options) { daemon.start(); }
  Client connect() { return get(Client::connect(options_for(daemon, GetParam()))); }

  FakeDaemon daemon;
};

inline std::string transport_name(const ::testing::TestParamInfo<Transport>& info) {
  return info.param == Transport::kRing ? "ring" : "stream";
}

}  // namespace bucketd::testing
