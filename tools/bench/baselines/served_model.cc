#include "tools/bench/baselines/served_model.h"

#include <malloc.h>

#include <array>
#include <cstdint>
#include <utility>

namespace bucketd {

Result<ServedModel> ServedModel::load(const std::string& artifact) {
  Result<std::unique_ptr<InProcessModel>> model = load_in_process(artifact, 1);
  if (!model) return error(model.error());
  return ServedModel(std::move(*model));
}

Result<std::span<const std::byte>> ServedModel::answer(std::span<const std::byte> input) {
  const auto values = static_cast<std::int64_t>(input.size() / sizeof(float));
  const std::array<ConstTensorView, 1> views = {{{DType::kFloat32, {values}, input.data()}}};
  if (Status status = model_->run(views); !status.ok()) return error(std::move(status));
  return model_->output_bytes(0);
}

void keep_large_buffers() {
  // Beyond the largest message; glibc takes no threshold above 32 MiB for mmap, so that is switched
  // off.
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);
  ::mallopt(M_TOP_PAD, 1 << 20);
}

}  // namespace bucketd
