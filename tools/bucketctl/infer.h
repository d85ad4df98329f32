// `bucketctl infer`: runs a model once on .npy files.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bucketd/client.h"
#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "tools/npy/npy.h"

namespace bucketd {

struct InferArguments {
  std::string model;
  std::vector<std::string> inputs;  // "NAME_OR_INDEX=FILE.npy"
  std::string output_directory;     // made if it is missing; empty: nothing is written
  std::chrono::steady_clock::time_point deadline;
};

struct InferOutput {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;       // cropped to the inputs' sizes
  std::string path;  // empty: not written
};

struct InferResult {
  std::uint32_t bucket = 0;
  std::chrono::nanoseconds queue_time{0};
  std::chrono::nanoseconds execute_time{0};
  std::vector<InferOutput> outputs;
};

// Which file goes to which input: one for each of the model's inputs, in their order.
// Errors: INVALID_ARGUMENT for an argument without '=', an unknown name or index, an input given
// twice or not at all.
Result<std::vector<std::string>> match_inputs(const ModelDescription& model,
                                              const std::vector<std::string>& arguments);

Result<InferResult> infer(Client& client, const InferArguments& arguments);

std::string infer_text(const InferResult& result);
nlohmann::json infer_json(const InferResult& result);

}  // namespace bucketd
