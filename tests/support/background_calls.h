// BackgroundCalls: a thread that calls model `multi` again and again while a test does harm
// elsewhere.
//
// Thread safety: answers() from any thread; the rest from the one that made it.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>

#include "bucketd/client.h"
#include "tests/support/tensor.h"

namespace bucketd::test {

// One call of `multi` with known values; an error if the answer is wrong.
Status call_multi(Model& model);

class BackgroundCalls {
 public:
  explicit BackgroundCalls(Model model);
  ~BackgroundCalls() { (void)stop(); }

  std::size_t answers() const { return answers_; }
  // Ends the thread; the first error, or OK. The thread ends by itself after an error.
  Status stop();

 private:
  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> answers_{0};
  Status error_;  // the thread's, until stop()
  std::thread thread_;
};

}  // namespace bucketd::test
