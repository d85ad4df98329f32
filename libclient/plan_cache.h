// PlanCache: what earlier completions of a lane told about how its signatures are padded.
//
// Thread safety: none of its own; the lane's channel guards it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "libclient/request_layout.h"

namespace bucketd::internal {

// Most signatures remembered. A sequence model has as many as it has lengths.
inline constexpr std::size_t kMaxCachedPlans = 1024;

class PlanCache {
 public:
  // The plan for these inputs, or null.
  std::shared_ptr<const Plan> find(std::span<const TensorSignature> inputs) const;
  // Remembers `plan`; an older one of this signature stays if it has the same id. When the cache is
  // full, some other signature is forgotten: its next request is raw and brings its plan back.
  void insert(std::span<const TensorSignature> inputs, Plan plan);
  // Forgets the plan of these inputs: the worker did not accept it.
  void erase(std::span<const TensorSignature> inputs);

 private:
  using Signature = std::vector<TensorSignature>;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::span<const TensorSignature> inputs) const;
    std::size_t operator()(const Signature& inputs) const {
      return (*this)(std::span<const TensorSignature>(inputs));
    }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(std::span<const TensorSignature> a, std::span<const TensorSignature> b) const;
  };
  std::unordered_map<Signature, std::shared_ptr<const Plan>, Hash, Equal> plans_;
};

}  // namespace bucketd::internal
