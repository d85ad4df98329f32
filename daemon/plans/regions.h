// Regions: what a buffer holds, box by box, in coordinates of its dims.
//
// Invariant: the boxes do not overlap and cover the buffer.
//
// Thread safety: values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/plans/moves.h"

namespace bucketd {

inline constexpr std::size_t kMaxRegionRank = 12;
using Coordinates = std::array<std::int64_t, kMaxRegionRank>;

// What a box holds.
struct Content {
  enum class Kind : std::uint8_t { kUnwritten, kFill, kCopy };
  Kind kind = Kind::kUnwritten;
  std::uint64_t fill_bits = 0;     // kFill
  std::uint32_t from = kNoBuffer;  // kCopy: elements of this buffer (kInput or kConstant),
  std::int64_t from_offset = 0;    // the box's first one here,
  Coordinates from_strides{};      // the next ones along each dim so far apart
};

struct Region {
  Coordinates start{};
  Coordinates size{};
  Content content;
};

class Regions {
 public:
  // Most boxes; what falls apart further is not worth following.
  static constexpr std::size_t kMaxRegions = 128;

  // One unwritten box; none if a size is 0. `dims` have at most kMaxRegionRank sizes.
  explicit Regions(std::span<const std::int64_t> dims);

  std::span<const std::int64_t> dims() const { return dims_; }
  // Elements from one index to the next along a dim.
  std::int64_t stride(std::size_t dim) const { return strides_[dim]; }
  std::span<const Region> list() const { return list_; }

  // The box holds `region.content` from now on. False when there are too many boxes.
  bool overwrite(const Region& region);

  // Takes dim `dim`, of a size that `inner` divides, as two: rows of `inner` elements. The same
  // elements in the same order. False when there are too many boxes or dims.
  bool split_dim(std::size_t dim, std::int64_t inner);

  // Joins boxes that go on in one another.
  void merge();

 private:
  void compute_strides();
  bool merge_into(Region& into, const Region& other) const;

  std::vector<std::int64_t> dims_;
  Coordinates strides_{};
  std::vector<Region> list_;
};

}  // namespace bucketd
