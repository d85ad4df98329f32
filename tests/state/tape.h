// Tape: what the artifacts `tape_head` and `tape_tail` (../artifacts/make_test_artifacts.py) hold
// and do, in plain arithmetic on integers: the model against which sessions are checked byte by
// byte.
//
// Two states: tape int64 [2, 16], marks int64 [16]. A request is x int64 [1, n], n from 1 to 8: up
// to 4 numbers go to bucket 0, which has 8 positions of both states (the first, or the last), more
// to bucket 1, which has all 16.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace bucketd::test {

class Tape {
 public:
  static constexpr std::size_t kPositions = 16;
  static constexpr std::int64_t kModulus = 1000003;

  explicit Tape(bool is_tail) : is_tail_(is_tail) { reset(); }

  void reset() {
    for (std::size_t i = 0; i < tape_.size(); ++i) tape_[i] = static_cast<std::int64_t>(i);
    for (std::size_t i = 0; i < marks_.size(); ++i) marks_[i] = static_cast<std::int64_t>(10 * i);
  }

  // The bucket's answer to x.
  std::int64_t run(const std::vector<std::int64_t>& x) {
    const std::int64_t total = std::accumulate(x.begin(), x.end(), std::int64_t{0});
    const std::size_t view = x.size() <= 4 ? 8 : kPositions;
    const std::size_t first = is_tail_ ? kPositions - view : 0;
    std::int64_t check = 0;
    for (std::size_t row = 0; row < 2; ++row) {
      for (std::size_t i = first; i < first + view; ++i) {
        std::int64_t& cell = tape_[row * kPositions + i];
        // As torch.remainder: never negative.
        cell = ((cell * 31 + total) % kModulus + kModulus) % kModulus;
        check += cell;
      }
    }
    for (std::size_t i = first; i < first + view; ++i) check += marks_[i] += total;
    return check;
  }

  // Keeps the first `length` positions of both states; the others are as at the beginning.
  void truncate(std::size_t length) {
    const Tape fresh(is_tail_);
    for (std::size_t i = length; i < kPositions; ++i) {
      tape_[i] = fresh.tape_[i];
      tape_[kPositions + i] = fresh.tape_[kPositions + i];
      marks_[i] = fresh.marks_[i];
    }
  }

  // State 0 is the tape, 1 the marks.
  std::vector<std::byte> bytes(std::size_t state) const {
    const std::int64_t* from = state == 0 ? tape_.data() : marks_.data();
    std::vector<std::byte> result((state == 0 ? tape_.size() : marks_.size()) * sizeof(*from));
    std::memcpy(result.data(), from, result.size());
    return result;
  }

 private:
  bool is_tail_;
  std::array<std::int64_t, 2 * kPositions> tape_{};
  std::array<std::int64_t, kPositions> marks_{};
};

}  // namespace bucketd::test
