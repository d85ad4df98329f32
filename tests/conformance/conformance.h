// Conformance: one daemon with every test artifact, and one client per test, over both transports.
// What holds over the ring must hold over the stream, which is simpler and serves as the oracle.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "bucketd/client.h"
#include "tests/support/daemon.h"
#include "tests/support/tensor.h"

namespace bucketd::test {

class Conformance : public ::testing::TestWithParam<Transport> {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();

  Client connect() { return daemon_->connect({.transport = GetParam()}); }
  Model open(const std::string& model) { return daemon_->open(model, GetParam()); }
  static TestDaemon& daemon() { return *daemon_; }

 private:
  static std::unique_ptr<TestDaemon> daemon_;
};

// Artifact `slow` on a worker with a single core, where order is decided by the scheduler alone.
inline constexpr const char* kSlowAlone = "slow_alone";
// Rounds of `slow` that outlast whatever else a test does meanwhile (about 0.5 s), and few.
inline constexpr std::int64_t kManyRounds = 16000;
inline constexpr std::int64_t kOneRound = 1;

inline Tensor rounds(std::int64_t count) { return tensor<std::int64_t>({1}, {count}); }

}  // namespace bucketd::test
