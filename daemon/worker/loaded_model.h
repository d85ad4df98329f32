// LoadedModel: a model as lanes, sessions and requests share it. Ends with the last of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backends/backend.h"
#include "daemon/worker/gone_notice.h"

namespace bucketd {

struct LoadedModel {
  LoadedModel(std::uint32_t model_id, std::unique_ptr<BucketModel> backend_model,
              GoneNotice gone_notice = {})
      : gone(std::move(gone_notice)),
        id(model_id),
        model(std::move(backend_model)),
        bucket_expected_ns(model->description().buckets.size()) {}

  GoneNotice gone;
  const std::uint32_t id;
  const std::unique_ptr<BucketModel> model;
  // How long a request is expected to execute: what the scheduler decides hand-overs by. Relaxed:
  // a hint.
  std::atomic<std::uint64_t> expected_ns{UINT64_MAX};

  // The same for each bucket: what clients are told, who sleep until shortly before.
  std::vector<std::atomic<std::uint64_t>> bucket_expected_ns;

  const ModelDescription& description() const { return model->description(); }

  // Takes note of one execution: up at once, down slowly, so that a mix of short and long buckets
  // counts as long.
  void note_execution(std::size_t bucket, std::uint64_t execute_ns) {
    bucket_expected_ns[bucket].store(
        towards(bucket_expected_ns[bucket].load(std::memory_order_relaxed), execute_ns),
        std::memory_order_relaxed);
    const std::uint64_t before = expected_ns.load(std::memory_order_relaxed);
    const std::uint64_t decayed = before == UINT64_MAX ? 0 : before - before / 8;
    expected_ns.store(std::max(execute_ns, decayed), std::memory_order_relaxed);
  }

  // A running estimate that a single outlier (a thread that lost its CPU) moves by an eighth at
  // most.
  static std::uint64_t towards(std::uint64_t estimate, std::uint64_t sample) {
    if (estimate == 0) return sample;
    const std::uint64_t step = estimate / 8 + 1;
    return std::clamp((estimate * 3 + sample) / 4, estimate - std::min(step, estimate),
                      estimate + step);
  }
};

}  // namespace bucketd
