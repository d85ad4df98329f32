#include "tools/bucketctl/infer.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include "tools/bucketctl/text_table.h"

namespace bucketd {
namespace {

std::string input_names(const ModelDescription& model) {
  std::string names;
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    names += (i > 0 ? ", " : "") + std::to_string(i) + " '" + model.inputs[i].name + "'";
  }
  return names;
}

// A name wins over an index: inputs may be called "1".
std::optional<std::size_t> find_input(const ModelDescription& model, std::string_view key) {
  for (std::size_t i = 0; i < model.inputs.size(); ++i) {
    if (model.inputs[i].name == key) return i;
  }
  std::size_t index = 0;
  const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), index);
  if (problem != std::errc() || end != key.data() + key.size() || index >= model.inputs.size()) {
    return std::nullopt;
  }
  return index;
}

Status make_directory(const std::string& path) {
  std::error_code problem;
  std::filesystem::create_directories(path, problem);
  if (!problem) return {};
  return {StatusCode::kInvalidArgument,
          "cannot make the folder '" + path + "': " + problem.message()};
}

Result<InferOutput> write_output(const Reply& reply, std::size_t index, const std::string& name,
                                 const std::string& directory) {
  const RawTensorSpan tensor = reply.raw_output(index);
  InferOutput output{name, tensor.dtype, tensor.shape, {}};
  if (directory.empty()) return output;
  std::vector<std::byte> bytes(*tensor.shape.byte_size(tensor.dtype));
  tensor.copy_to(bytes);
  output.path = std::filesystem::path(directory) / (name + ".npy");
  if (Status s = write_npy(output.path, tensor.dtype, tensor.shape, bytes); !s.ok()) {
    return error(s);
  }
  return output;
}

}  // namespace

Result<std::vector<std::string>> match_inputs(const ModelDescription& model,
                                              const std::vector<std::string>& arguments) {
  std::vector<std::string> files(model.inputs.size());
  for (const std::string& argument : arguments) {
    const std::size_t equals = argument.find('=');
    if (equals == std::string::npos || equals + 1 == argument.size()) {
      return error(StatusCode::kInvalidArgument,
                   "input '" + argument + "': expected NAME_OR_INDEX=FILE.npy");
    }
    const std::string key = argument.substr(0, equals);
    const std::optional<std::size_t> index = find_input(model, key);
    if (!index) {
      return error(StatusCode::kInvalidArgument, "model '" + model.name + "' has no input '" + key +
                                                     "'; it has " + input_names(model));
    }
    if (!files[*index].empty()) {
      return error(StatusCode::kInvalidArgument,
                   "model '" + model.name + "', input " + std::to_string(*index) + " '" +
                       model.inputs[*index].name + "' is given twice");
    }
    files[*index] = argument.substr(equals + 1);
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!files[i].empty()) continue;
    return error(StatusCode::kInvalidArgument, "model '" + model.name + "', input " +
                                                   std::to_string(i) + " '" + model.inputs[i].name +
                                                   "' is missing; give -i " + model.inputs[i].name +
                                                   "=FILE.npy");
  }
  return files;
}

Result<InferResult> infer(Client& client, const InferArguments& arguments) {
  Result<ModelDescription> description = client.describe(arguments.model);
  if (!description) return error(description.error());
  const Result<std::vector<std::string>> files = match_inputs(*description, arguments.inputs);
  if (!files) return error(files.error());

  std::vector<NpyArray> arrays;
  std::vector<TensorSignature> signatures;
  for (const std::string& file : *files) {
    Result<NpyArray> array = read_npy(file);
    if (!array) return error(array.error());
    signatures.push_back({array->dtype, array->shape});
    arrays.push_back(std::move(*array));
  }
  if (Status s = check_inputs(*description, signatures); !s.ok()) return error(s);

  Result<Model> model = client.open(arguments.model, arguments.deadline);
  if (!model) return error(model.error());
  Result<Request> request =
      model->new_unchecked_request(signatures, {.wait_until = arguments.deadline});
  if (!request) return error(request.error());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    request->raw_input(i).copy_from(arrays[i].data);
  }
  request->set_deadline(arguments.deadline);
  const Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());

  InferResult result{reply->bucket(), reply->queue_time(), reply->execute_time(), {}};
  if (!arguments.output_directory.empty()) {
    if (Status s = make_directory(arguments.output_directory); !s.ok()) return error(s);
  }
  for (std::size_t i = 0; i < reply->output_count(); ++i) {
    const std::string name =
        i < description->outputs.size() ? description->outputs[i].name : std::to_string(i);
    Result<InferOutput> output = write_output(*reply, i, name, arguments.output_directory);
    if (!output) return error(output.error());
    result.outputs.push_back(std::move(*output));
  }
  return result;
}

std::string infer_text(const InferResult& result) {
  const auto microseconds = [](std::chrono::nanoseconds time) {
    return std::to_string(time.count() / 1000) + " us";
  };
  std::ostringstream text;
  text << "bucket " << result.bucket << ", queued " << microseconds(result.queue_time)
       << ", executed " << microseconds(result.execute_time) << "\n";
  TextTable table({">OUTPUT", "NAME", "DTYPE", "SHAPE", "FILE"});
  for (std::size_t i = 0; i < result.outputs.size(); ++i) {
    const InferOutput& output = result.outputs[i];
    table.add_row({std::to_string(i), output.name, std::string(dtype_name(output.dtype)),
                   output.shape.to_string(), output.path.empty() ? "-" : output.path});
  }
  text << table.to_string();
  return text.str();
}

nlohmann::json infer_json(const InferResult& result) {
  nlohmann::json outputs = nlohmann::json::array();
  for (const InferOutput& output : result.outputs) {
    nlohmann::json shape = nlohmann::json::array();
    for (std::int64_t dim : output.shape.dims()) shape.push_back(dim);
    outputs.push_back({{"name", output.name},
                       {"dtype", dtype_name(output.dtype)},
                       {"shape", shape},
                       {"file", output.path}});
  }
  return {{"bucket", result.bucket},
          {"queue_ns", result.queue_time.count()},
          {"execute_ns", result.execute_time.count()},
          {"outputs", outputs}};
}

}  // namespace bucketd
