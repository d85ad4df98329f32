#include "daemon/plans/regions.h"

#include <algorithm>
#include <optional>

namespace bucketd {
namespace {

// The part of `region` from `start`, of `size`, which lie in it.
Region part_of(const Region& region, const Coordinates& start, const Coordinates& size,
               std::size_t rank) {
  Region part{start, size, region.content};
  for (std::size_t d = 0; d < rank; ++d) {
    part.content.from_offset += (start[d] - region.start[d]) * region.content.from_strides[d];
  }
  return part;
}

bool overlaps(const Region& a, const Region& b, std::size_t rank) {
  for (std::size_t d = 0; d < rank; ++d) {
    if (a.start[d] + a.size[d] <= b.start[d] || b.start[d] + b.size[d] <= a.start[d]) return false;
  }
  return true;
}

// What is left of `region` without `box`, which overlaps it, cut dim by dim.
void cut_out(const Region& region, const Region& box, std::size_t rank,
             std::vector<Region>& pieces) {
  Region rest = region;
  for (std::size_t d = 0; d < rank; ++d) {
    const std::int64_t end = rest.start[d] + rest.size[d];
    const std::int64_t box_end = box.start[d] + box.size[d];
    const auto keep = [&](std::int64_t from, std::int64_t to) {
      Coordinates start = rest.start;
      Coordinates size = rest.size;
      start[d] = from;
      size[d] = to - from;
      return part_of(rest, start, size, rank);
    };
    if (rest.start[d] < box.start[d]) pieces.push_back(keep(rest.start[d], box.start[d]));
    if (box_end < end) pieces.push_back(keep(box_end, end));
    rest = keep(std::max(rest.start[d], box.start[d]), std::min(end, box_end));
  }
}

}  // namespace

Regions::Regions(std::span<const std::int64_t> dims) : dims_(dims.begin(), dims.end()) {
  compute_strides();
  Region whole;
  std::copy(dims_.begin(), dims_.end(), whole.size.begin());
  if (element_count(dims) > 0) list_.push_back(whole);
}

void Regions::compute_strides() {
  std::int64_t stride = 1;
  for (std::size_t d = dims_.size(); d-- > 0;) {
    strides_[d] = stride;
    stride *= dims_[d];
  }
}

bool Regions::overwrite(const Region& region) {
  std::vector<Region> next;
  for (const Region& old : list_) {
    if (overlaps(old, region, dims_.size())) {
      cut_out(old, region, dims_.size(), next);
    } else {
      next.push_back(old);
    }
  }
  next.push_back(region);
  list_ = std::move(next);
  return list_.size() <= kMaxRegions;
}

bool Regions::split_dim(std::size_t dim, std::int64_t inner) {
  if (dims_.size() == kMaxRegionRank) return false;
  std::vector<Region> next;
  for (const Region& region : list_) {
    const std::int64_t begin = region.start[dim];
    const std::int64_t end = begin + region.size[dim];
    // Rows [first, first + count) from column `column` on, `columns` wide.
    const auto add = [&](std::int64_t first, std::int64_t count, std::int64_t column,
                         std::int64_t columns) {
      Region part = region;
      const std::int64_t stride = region.content.from_strides[dim];
      const auto insert = [dim](Coordinates& into, std::int64_t row, std::int64_t within) {
        std::copy_backward(into.begin() + static_cast<std::ptrdiff_t>(dim), into.end() - 1,
                           into.end());
        into[dim] = row;
        into[dim + 1] = within;
      };
      insert(part.start, first, column);
      insert(part.size, count, columns);
      insert(part.content.from_strides, stride * inner, stride);
      part.content.from_offset += (first * inner + column - begin) * stride;
      next.push_back(part);
    };
    const std::int64_t first_row = begin / inner;
    const std::int64_t last_row = (end - 1) / inner;
    if (first_row == last_row) {
      add(first_row, 1, begin % inner, end - begin);
      continue;
    }
    std::int64_t row = first_row;
    if (begin % inner != 0) add(row++, 1, begin % inner, inner - begin % inner);
    const std::int64_t whole_end = end / inner;
    if (whole_end > row) add(row, whole_end - row, 0, inner);
    if (end % inner != 0) add(whole_end, 1, 0, end % inner);
  }
  const std::int64_t rows = dims_[dim] / inner;
  dims_[dim] = rows;
  dims_.insert(dims_.begin() + static_cast<std::ptrdiff_t>(dim) + 1, inner);
  compute_strides();
  list_ = std::move(next);
  return list_.size() <= kMaxRegions;
}

bool Regions::merge_into(Region& into, const Region& other) const {
  if (into.content.kind != other.content.kind || into.content.from != other.content.from ||
      into.content.fill_bits != other.content.fill_bits) {
    return false;
  }
  std::optional<std::size_t> along;
  for (std::size_t d = 0; d < dims_.size(); ++d) {
    if (into.start[d] == other.start[d] && into.size[d] == other.size[d]) continue;
    if (along) return false;
    along = d;
  }
  if (!along) return false;
  const std::size_t d = *along;
  if (other.start[d] != into.start[d] + into.size[d]) return false;
  Coordinates strides = into.content.from_strides;
  if (into.content.kind == Content::Kind::kCopy) {
    // Along dims of one element either stride will do.
    for (std::size_t e = 0; e < dims_.size(); ++e) {
      if (e != d && into.size[e] > 1 && strides[e] != other.content.from_strides[e]) return false;
    }
    const std::int64_t step = other.content.from_offset - into.content.from_offset;
    if (into.size[d] == 1) {
      strides[d] = step;
    } else if (step != into.size[d] * strides[d]) {
      return false;
    }
    if (other.size[d] > 1 && other.content.from_strides[d] != strides[d]) return false;
  }
  into.content.from_strides = strides;
  into.size[d] += other.size[d];
  return true;
}

void Regions::merge() {
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t a = 0; a < list_.size() && !changed; ++a) {
      for (std::size_t b = 0; b < list_.size() && !changed; ++b) {
        if (a == b || !merge_into(list_[a], list_[b])) continue;
        list_.erase(list_.begin() + static_cast<std::ptrdiff_t>(b));
        changed = true;
      }
    }
  }
}

}  // namespace bucketd
