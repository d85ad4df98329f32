// bucketd-demo-client: one of the demo's client processes. Sends its share of the requests that
// libclient/python/examples/make_demo_artifact.py wrote through the daemon and compares every
// answer with that of the model without buckets, run in the process that made them.
//
//   bucketd-demo-client --requests DIR [--share 0/4] [--socket PATH]
//   bucketd-demo-client --requests DIR --show-errors
//
// Exit code: 0 when every answer agrees, 1 when one does not, or is missing, or an error is not
// the one expected; 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bucketd/client.h"
#include "tools/npy/npy.h"

namespace bucketd {
namespace {

// Largest difference that rounding explains: padding only changes the order of sums.
constexpr double kTolerance = 1e-4;

struct Arguments {
  std::string socket;
  std::string requests;
  std::string model = "bert";
  std::size_t share = 0;
  std::size_t shares = 1;
  bool show_errors = false;
};

// One entry of index.json.
struct Expected {
  std::int64_t length = 0;
  std::string input_ids;
  std::string attention_mask;
  std::uint32_t bucket = 0;
  std::vector<float> logits;
};

std::vector<Expected> read_index(const std::string& folder) {
  std::vector<Expected> index;
  for (const nlohmann::json& entry : nlohmann::json::parse(std::ifstream(folder + "/index.json"))) {
    index.push_back({entry.at("length"), entry.at("input_ids"), entry.at("attention_mask"),
                     entry.at("bucket"), entry.at("logits")});
  }
  return index;
}

std::size_t argmax(const std::vector<float>& values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

// NaN counts as infinitely far off.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

Result<Reply> run_once(Model& model, const std::array<NpyArray, 2>& inputs) {
  Result<Request> request = model.new_request({inputs[0].shape, inputs[1].shape});
  if (!request) return error(request.error());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    request->raw_input(i).copy_from(inputs[i].data);
  }
  return std::move(*request).run();
}

// Prints the row of one request; whether it is as it should be.
bool run_row(Model& model, const std::string& folder, const Expected& expected) {
  std::array<NpyArray, 2> inputs;
  const std::array<std::string, 2> files = {expected.input_ids, expected.attention_mask};
  for (std::size_t i = 0; i < files.size(); ++i) {
    Result<NpyArray> array = read_npy(folder + "/" + files[i]);
    if (!array) {
      std::fprintf(stderr, "%s\n", array.error().to_string().c_str());
      return false;
    }
    inputs[i] = std::move(*array);
  }
  const Result<Reply> reply = run_once(model, inputs);
  if (!reply) {
    std::printf("%7d  %6lld  WRONG: %s\n", ::getpid(), static_cast<long long>(expected.length),
                reply.error().to_string().c_str());
    return false;
  }
  const std::vector<float> logits = reply->output<float>(0).to_vector();
  const double difference = largest_difference(logits, expected.logits);
  const ModelDescription description = model.description();
  const std::int64_t bucket_tokens = description.buckets.at(reply->bucket()).inputs.at(0)[1];
  std::string verdict = "ok";
  if (argmax(logits) != argmax(expected.logits))
    verdict = "WRONG: argmax differs";
  else if (!(difference <= kTolerance))
    verdict = "WRONG: difference above 1e-4";
  else if (reply->bucket() != expected.bucket)
    verdict = "WRONG: not the smallest bucket that fits";
  std::printf("%7d  %6lld  %6lld  %13zu  %17zu  %18.2e  %s\n", ::getpid(),
              static_cast<long long>(expected.length), static_cast<long long>(bucket_tokens),
              argmax(logits), argmax(expected.logits), difference, verdict.c_str());
  return verdict == "ok";
}

int run_share(Client& client, const Arguments& arguments) {
  Result<Model> model = client.open(arguments.model);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().to_string().c_str());
    return 1;
  }
  const std::vector<Expected> index = read_index(arguments.requests);
  std::size_t sent = 0;
  std::size_t right = 0;
  for (std::size_t i = arguments.share; i < index.size(); i += arguments.shares, ++sent) {
    if (run_row(*model, arguments.requests, index[i])) ++right;
  }
  if (sent == 0) std::fprintf(stderr, "no requests in this share\n");
  return sent > 0 && right == sent ? 0 : 1;
}

// --show-errors: what the daemon says to requests that are wrong.

struct Mistake {
  std::string what;
  StatusCode code;
  Status got;
};

std::string shown(const Mistake& mistake) {
  return mistake.what + "\n    " + (mistake.got.ok() ? "accepted!" : mistake.got.to_string());
}

// Sent past the client library's own checks, so that the daemon answers.
Status send_unchecked(Model& model, std::vector<TensorSignature> inputs) {
  Result<Request> request = model.new_unchecked_request(inputs);
  if (!request) return request.error();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<std::byte> zeros(*inputs[i].shape.byte_size(inputs[i].dtype));
    request->raw_input(i).copy_from(zeros);
  }
  const Result<Reply> reply = std::move(*request).run();
  return reply ? Status() : reply.error();
}

int show_errors(Client& client, const Arguments& arguments) {
  Result<Model> model = client.open(arguments.model);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().to_string().c_str());
    return 1;
  }
  const auto tokens = [](std::int64_t count) { return TensorSignature{DType::kInt64, {1, count}}; };
  const Result<Model> missing = client.open("brt");
  const std::vector<Mistake> mistakes = {
      {"513 tokens", StatusCode::kOutOfRange, send_unchecked(*model, {tokens(513), tokens(513)})},
      {"no tokens at all", StatusCode::kInvalidArgument,
       send_unchecked(*model, {tokens(0), tokens(0)})},
      {"token ids as float32", StatusCode::kInvalidArgument,
       send_unchecked(*model, {{DType::kFloat32, {1, 8}}, tokens(8)})},
      {"a mask of rank 1", StatusCode::kInvalidArgument,
       send_unchecked(*model, {tokens(8), {DType::kInt64, {8}}})},
      {"a model that is not there", StatusCode::kNotFound, missing ? Status() : missing.error()},
  };
  int failed = 0;
  for (const Mistake& mistake : mistakes) {
    const bool right = mistake.got.code() == mistake.code;
    std::printf("%s%s\n", shown(mistake).c_str(), right ? "" : "\n    WRONG: another error");
    failed += right ? 0 : 1;
  }
  std::printf("and a request without mistake, on the same connection:\n");
  const std::vector<Expected> index = read_index(arguments.requests);
  if (index.empty() || !run_row(*model, arguments.requests, index[index.size() / 2])) ++failed;
  return failed == 0 ? 0 : 1;
}

int demo_client_main(int argc, char** argv) {
  Arguments arguments;
  std::string share = "0/1";
  CLI::App app("One of the demo's client processes.", "bucketd-demo-client");
  app.add_option("--socket", arguments.socket, "the daemon's socket");
  app.add_option("--requests", arguments.requests, "folder with index.json")->required();
  app.add_option("--model", arguments.model)->capture_default_str();
  app.add_option("--share", share, "I/N: requests I, I+N, I+2N, ...")->capture_default_str();
  app.add_flag("--show-errors", arguments.show_errors, "send wrong requests instead");
  try {
    app.parse(argc, argv);
    char slash = 0;
    std::istringstream text(share);
    if (!(text >> arguments.share >> slash >> arguments.shares) || slash != '/' ||
        arguments.share >= arguments.shares) {
      throw CLI::ValidationError("--share", "expected I/N with I < N");
    }
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : 2;
  }
  // Rows of several processes go to one terminal: each is written at once.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);

  Result<Client> client = Client::connect(
      {.socket_path = arguments.socket, .connect_timeout = std::chrono::seconds(60)});
  if (!client) {
    std::fprintf(stderr, "%s\n", client.error().to_string().c_str());
    return 1;
  }
  return arguments.show_errors ? show_errors(*client, arguments) : run_share(*client, arguments);
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  try {
    return bucketd::demo_client_main(argc, argv);
  } catch (const std::exception& problem) {  // index.json that is missing or not as described
    std::cerr << "bucketd-demo-client: " << problem.what() << "\n";
    return 1;
  }
}
