// bucketd-demo-images: one of the demo's client processes. Sends its share of the images that
// libclient/python/examples/image_example.py wrote, each at its own height and width, and compares
// scores and heat map with those of the network without buckets.
//
//   bucketd-demo-images --requests DIR [--share 0/4] [--socket PATH]
//
// Exit code: 0 when every answer agrees, 1 when one does not, or is missing; 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bucketd/client.h"
#include "tools/npy/npy.h"

namespace bucketd {
namespace {

struct Arguments {
  std::string socket;
  std::string folder;
  std::size_t share = 0;
  std::size_t shares = 1;
};

NpyArray read(const std::string& path) {
  Result<NpyArray> array = read_npy(path);
  if (!array) throw std::runtime_error(array.error().to_string());
  return std::move(*array);
}

// Infinite when shapes differ, or something is no number.
double largest_difference(const StridedSpan<const float>& output, const NpyArray& expected) {
  if (output.shape() != expected.shape || expected.dtype != DType::kFloat32) return INFINITY;
  const std::vector<float> found = output.to_vector();
  std::vector<float> wanted(found.size());
  std::memcpy(wanted.data(), expected.data.data(), expected.data.size());
  double largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - wanted[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

// Prints the row of one image; whether its answer is as it should be.
bool run_row(Model& model, const std::string& folder, const nlohmann::json& entry,
             double tolerance) {
  const NpyArray image = read(folder + "/" + entry.at("image").get<std::string>());
  const std::string size = std::to_string(entry.at("height").get<int>()) + "x" +
                           std::to_string(entry.at("width").get<int>());
  Result<Request> request = model.new_request({image.shape});
  if (request) request->raw_input(0).copy_from(image.data);
  const Result<Reply> reply = request ? std::move(*request).run() : error(request.error());
  if (!reply) {
    std::printf("%7d  %9s  WRONG: %s\n", ::getpid(), size.c_str(),
                reply.error().to_string().c_str());
    return false;
  }
  double difference = 0;
  const char* const outputs[] = {"scores", "heat_map"};
  for (std::size_t o = 0; o < 2; ++o) {
    const NpyArray expected = read(folder + "/" + entry.at(outputs[o]).get<std::string>());
    difference = std::max(difference, largest_difference(reply->output<float>(o), expected));
  }
  const Shape bucket = model.description().buckets.at(reply->bucket()).inputs.at(0);
  const Shape heat_map = reply->output<float>(1).shape();
  std::string verdict = "ok";
  if (!(difference <= tolerance)) {
    verdict = "WRONG: the answer differs";
  } else if (reply->bucket() != entry.at("bucket").get<std::uint32_t>()) {
    verdict = "WRONG: not the first bucket that fits";
  }
  std::printf("%7d  %9s  %9s  %9s  %18.2e  %s\n", ::getpid(), size.c_str(),
              (std::to_string(bucket[2]) + "x" + std::to_string(bucket[3])).c_str(),
              (std::to_string(heat_map[2]) + "x" + std::to_string(heat_map[3])).c_str(), difference,
              verdict.c_str());
  return verdict == "ok";
}

int run_share(const Arguments& arguments) {
  Result<Client> client = Client::connect(
      {.socket_path = arguments.socket, .connect_timeout = std::chrono::seconds(60)});
  if (!client) throw std::runtime_error(client.error().to_string());
  const nlohmann::json index =
      nlohmann::json::parse(std::ifstream(arguments.folder + "/index.json"));
  Result<Model> model = client->open(index.at("model"));
  if (!model) throw std::runtime_error(model.error().to_string());
  const nlohmann::json& requests = index.at("requests");
  std::size_t sent = 0;
  std::size_t right = 0;
  for (std::size_t i = arguments.share; i < requests.size(); i += arguments.shares, ++sent) {
    if (run_row(*model, arguments.folder, requests[i], index.at("tolerance"))) ++right;
  }
  if (sent == 0) throw std::runtime_error("no requests in this share");
  return right == sent ? 0 : 1;
}

int demo_images_main(int argc, char** argv) {
  Arguments arguments;
  std::string share = "0/1";
  CLI::App app("One of the demo's processes that send images.", "bucketd-demo-images");
  app.add_option("--socket", arguments.socket, "the daemon's socket");
  app.add_option("--requests", arguments.folder, "folder with index.json")->required();
  app.add_option("--share", share, "I/N: the I-th of N shares, from 0 on")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : 2;
  }
  if (std::sscanf(share.c_str(), "%zu/%zu", &arguments.share, &arguments.shares) != 2 ||
      arguments.share >= arguments.shares) {
    std::cerr << "--share takes I/N, with I below N\n";
    return 2;
  }
  return run_share(arguments);
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  try {
    return bucketd::demo_images_main(argc, argv);
  } catch (const std::exception& problem) {
    std::cerr << "bucketd-demo-images: " << problem.what() << "\n";
    return 1;
  }
}
