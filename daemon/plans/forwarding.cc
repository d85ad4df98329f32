#include "daemon/plans/forwarding.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "daemon/plans/element_conversion.h"

namespace bucketd {
namespace {

// One end of a move in coordinates of its buffer: dimension d of the move goes along dim
// `along[d]` of the buffer in steps of `step[d]`, or stays where it is (step 0).
struct Track {
  Coordinates start{};
  std::array<std::size_t, kMaxMoveRank> along{};
  std::array<std::int64_t, kMaxMoveRank> step{};
};

// Dimensions of a move; may be split on the way, at both ends at once.
using Dims = std::vector<MoveDim>;
using Stride = std::int64_t MoveDim::*;
constexpr std::int64_t MoveDim::*kTo = &MoveDim::to_stride;
constexpr std::int64_t MoveDim::*kFrom = &MoveDim::from_stride;

enum class Tracked { kYes, kChanged, kNo };

// Finds the track of one end of a move. kChanged: dims or regions were split, all tracks have to be
// found anew. Writers need steps of 1.
Tracked find_track(Regions& regions, Dims& dims, Stride stride, std::int64_t offset, bool writes,
                   Track& track) {
  const std::span<const std::int64_t> sizes = regions.dims();
  track = {};
  for (std::size_t c = 0; c < sizes.size(); ++c) {
    track.start[c] = offset / regions.stride(c);
    offset %= regions.stride(c);
  }
  std::array<std::size_t, kMaxRegionRank> taken_by;
  taken_by.fill(kMaxMoveRank);
  for (std::size_t d = 0; d < dims.size(); ++d) {
    const std::int64_t distance = std::abs(dims[d].*stride);
    if (distance == 0 || dims[d].size == 1) {
      // Many elements written to one place: LibTorch refuses it.
      if (writes && dims[d].size > 1) return Tracked::kNo;
      continue;
    }
    // The outermost dim that `distance` is a whole number of steps along.
    std::size_t c = 0;
    while (c < sizes.size() && (sizes[c] == 1 || regions.stride(c) > distance)) ++c;
    if (c == sizes.size() || distance % regions.stride(c) != 0) return Tracked::kNo;
    const std::int64_t step = dims[d].*stride / regions.stride(c);
    const std::int64_t last = track.start[c] + step * (dims[d].size - 1);
    if (last < 0 || last >= sizes[c]) {
      // It runs on into the next rows: row by row then, if rows are whole.
      if (step != 1 || track.start[c] != 0 || dims[d].size % sizes[c] != 0 ||
          dims.size() == kMaxMoveRank) {
        return Tracked::kNo;
      }
      const MoveDim inner{sizes[c], dims[d].to_stride, dims[d].from_stride};
      dims[d] = {dims[d].size / sizes[c], inner.to_stride * sizes[c], inner.from_stride * sizes[c]};
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(d) + 1, inner);
      return Tracked::kChanged;
    }
    const auto split = [&](std::int64_t inner) {
      if (inner <= 1 || sizes[c] % inner != 0) return Tracked::kNo;
      return regions.split_dim(c, inner) ? Tracked::kChanged : Tracked::kNo;
    };
    if (writes && step != 1) return split(step);
    if (taken_by[c] != kMaxMoveRank) {
      return split(std::max(std::abs(step), std::abs(track.step[taken_by[c]])));
    }
    taken_by[c] = d;
    track.along[d] = c;
    track.step[d] = step;
  }
  return Tracked::kYes;
}

// The indices [first, first + count) of a dimension whose coordinates lie in [start, start + size).
std::pair<std::int64_t, std::int64_t> indices_within(std::int64_t at, std::int64_t step,
                                                     std::int64_t count, std::int64_t start,
                                                     std::int64_t size) {
  std::int64_t first = 0;
  std::int64_t last = count - 1;
  const auto floor_div = [](std::int64_t a, std::int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
  };
  const auto ceil_div = [&](std::int64_t a, std::int64_t b) { return -floor_div(-a, b); };
  if (step > 0) {
    first = std::max(first, ceil_div(start - at, step));
    last = std::min(last, floor_div(start + size - 1 - at, step));
  } else {
    first = std::max(first, ceil_div(at - (start + size - 1), -step));
    last = std::min(last, floor_div(at - start, -step));
  }
  return {first, last - first + 1};
}

// Calls `visit(to, from)` with the places of every element of a move.
template <typename Visit>
void visit_elements(std::span<const MoveDim> dims, std::int64_t to, std::int64_t from,
                    const Visit& visit) {
  if (dims.empty()) return visit(to, from);
  for (std::int64_t i = 0; i < dims[0].size; ++i) {
    visit_elements(dims.subspan(1), to + i * dims[0].to_stride, from + i * dims[0].from_stride,
                   visit);
  }
}

class Forwarding {
 public:
  explicit Forwarding(const MoveList& list) : list_(list) {
    for (const MoveBuffer& buffer : list.buffers) {
      const bool is_followed =
          (buffer.kind == BufferKind::kTemporary || buffer.kind == BufferKind::kOutput) &&
          buffer.dims.size() <= kMaxRegionRank;
      contents_.push_back(is_followed ? std::optional(Regions(buffer.dims)) : std::nullopt);
    }
  }

  std::optional<Regions>& contents(std::size_t buffer) { return contents_[buffer]; }

  // False when the buffer's contents are not known box by box afterwards.
  bool apply(const Move& move) {
    Dims dims(move.used_dims().begin(), move.used_dims().end());
    std::optional<Regions>& to = contents_[move.to];
    if (!to) return false;
    const bool from_temporary =
        !move.is_fill() && list_.buffers[move.from].kind == BufferKind::kTemporary;
    if (from_temporary && !contents_[move.from]) return false;
    Track to_track;
    Track from_track;
    for (;;) {
      Tracked tracked = find_track(*to, dims, kTo, move.to_offset, true, to_track);
      if (tracked == Tracked::kYes && from_temporary) {
        tracked =
            find_track(*contents_[move.from], dims, kFrom, move.from_offset, false, from_track);
      }
      if (tracked == Tracked::kNo) return false;
      if (tracked == Tracked::kYes) break;
    }
    // The box that is written, and of which dimension of the move each of its dims is.
    Region box;
    for (std::size_t c = 0; c < to->dims().size(); ++c) {
      box.start[c] = to_track.start[c];
      box.size[c] = 1;
    }
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (to_track.step[d] != 0) box.size[to_track.along[d]] = dims[d].size;
    }
    if (!from_temporary) {
      if (move.is_fill()) {
        box.content.kind = Content::Kind::kFill;
        box.content.fill_bits = move.fill_bits;
      } else {
        box.content.kind = Content::Kind::kCopy;
        box.content.from = move.from;
        box.content.from_offset = move.from_offset;
        for (std::size_t d = 0; d < dims.size(); ++d) {
          if (to_track.step[d] != 0) {
            box.content.from_strides[to_track.along[d]] = dims[d].from_stride;
          }
        }
      }
      return to->overwrite(box);
    }
    // Collected first: a buffer may be copied to itself.
    std::vector<Region> parts;
    for (const Region& region : contents_[move.from]->list()) {
      if (!add_part(move, dims, box, to_track, region, from_track, parts)) return false;
    }
    return std::ranges::all_of(parts, [&](const Region& part) { return to->overwrite(part); });
  }

 private:
  // The part of `box` that `region`, a box of the source, fills.
  bool add_part(const Move& move, const Dims& dims, const Region& box, const Track& to_track,
                const Region& region, const Track& from_track, std::vector<Region>& parts) const {
    const DType via = list_.buffers[move.from].dtype;
    const DType to = list_.buffers[move.to].dtype;
    Region part = box;
    part.content = {};
    part.content.kind = region.content.kind;
    Coordinates first = from_track.start;  // in the source
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (from_track.step[d] == 0) continue;
      const std::size_t c = from_track.along[d];
      const auto [index, count] = indices_within(from_track.start[c], from_track.step[d],
                                                 dims[d].size, region.start[c], region.size[c]);
      if (count <= 0) return true;
      first[c] += index * from_track.step[d];
      const std::size_t e = to_track.along[d];
      part.start[e] += index;
      part.size[e] = count;
      part.content.from_strides[e] = from_track.step[d] * region.content.from_strides[c];
    }
    part.content.from_offset = region.content.from_offset;
    for (std::size_t c = 0; c < contents_[move.from]->dims().size(); ++c) {
      if (first[c] < region.start[c] || first[c] >= region.start[c] + region.size[c]) return true;
      part.content.from_offset += (first[c] - region.start[c]) * region.content.from_strides[c];
    }
    if (region.content.kind == Content::Kind::kFill) {
      part.content.fill_bits = convert_bits(to, via, region.content.fill_bits);
    } else if (region.content.kind == Content::Kind::kCopy) {
      const DType from = list_.buffers[region.content.from].dtype;
      part.content.from = region.content.from;
      if (via != to && !passes_unchanged(from, via)) return false;
    }
    parts.push_back(part);
    return true;
  }

  const MoveList& list_;
  std::vector<std::optional<Regions>> contents_;
};

}  // namespace

std::optional<std::vector<Regions>> forward_moves(const MoveList& list, std::size_t output_count) {
  Forwarding forwarding(list);
  for (const Move& move : list.moves) {
    if (!forwarding.apply(move)) return std::nullopt;
  }
  std::vector<Regions> outputs(output_count, Regions(std::span<const std::int64_t>()));
  for (std::size_t b = 0; b < list.buffers.size(); ++b) {
    if (list.buffers[b].kind != BufferKind::kOutput) continue;
    std::optional<Regions>& contents = forwarding.contents(b);
    if (!contents) return std::nullopt;
    contents->merge();
    outputs[list.buffers[b].index] = std::move(*contents);
  }
  return outputs;
}

std::optional<std::uint32_t> find_unwritten_output(const MoveList& list) {
  std::vector<std::vector<bool>> is_written(list.buffers.size());
  for (std::size_t b = 0; b < list.buffers.size(); ++b) {
    const MoveBuffer& buffer = list.buffers[b];
    const bool is_given = buffer.kind == BufferKind::kInput || buffer.kind == BufferKind::kConstant;
    if (!is_given) is_written[b].resize(static_cast<std::size_t>(element_count(buffer.dims)));
  }
  for (const Move& move : list.moves) {
    std::vector<bool>& to = is_written[move.to];
    const std::vector<bool>* from = move.is_fill() ? nullptr : &is_written[move.from];
    visit_elements(move.used_dims(), move.to_offset, move.from_offset,
                   [&](std::int64_t to_at, std::int64_t from_at) {
                     to[static_cast<std::size_t>(to_at)] =
                         from == nullptr || from->empty() ||
                         (*from)[static_cast<std::size_t>(from_at)];
                   });
  }
  for (std::size_t b = 0; b < list.buffers.size(); ++b) {
    if (list.buffers[b].kind != BufferKind::kOutput) continue;
    if (!std::ranges::all_of(is_written[b], [](bool written) { return written; })) {
      return list.buffers[b].index;
    }
  }
  return std::nullopt;
}

void drop_dead_moves(MoveList& list) {
  std::vector<bool> is_needed(list.buffers.size());
  for (std::size_t b = 0; b < list.buffers.size(); ++b) {
    is_needed[b] = list.buffers[b].kind == BufferKind::kOutput;
  }
  std::vector<Move> kept;
  for (auto move = list.moves.rbegin(); move != list.moves.rend(); ++move) {
    if (!is_needed[move->to]) continue;
    if (!move->is_fill()) is_needed[move->from] = true;
    kept.push_back(*move);
  }
  std::ranges::reverse(kept);
  list.moves = std::move(kept);
}

}  // namespace bucketd
