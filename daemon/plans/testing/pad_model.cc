#include "daemon/plans/testing/pad_model.h"

#include <cassert>
#include <utility>

namespace bucketd::testing {

ModelDescription pad_model(std::string name, std::vector<std::int64_t> sizes, double fill,
                           PadSide side, DType dtype, std::int64_t rows) {
  ModelDescription model;
  model.name = std::move(name);
  model.backend = "fake";
  model.inputs = {{"x", dtype}};
  model.outputs = {{"y", dtype}};
  for (const std::int64_t size : sizes) {
    BucketSpec& bucket = model.buckets.emplace_back();
    bucket.inputs = {Shape{rows, size}};
    bucket.outputs = {Shape{rows, size}};
  }
  model.crop = {{.output = 0, .dim = 1, .input = 0, .input_dim = 1, .side = side}};
  model.kernel = KernelKind::kPad;
  model.pad = {{{1}}, {fill}, {side}};
  model.accepted = {{{rows, rows}, {1, sizes.back()}}};
  assert(validate(model).ok());
  return model;
}

}  // namespace bucketd::testing
