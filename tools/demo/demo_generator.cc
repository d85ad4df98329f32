// bucketd-demo-generator: one of the demo's client processes that generate text, token by token,
// through a session (KV cache) in the daemon.
//
//   bucketd-demo-generator --prompts DIR --prompt 0 [--socket PATH]
//
// DIR is what libclient/python/examples/make_generator_artifact.py wrote; its tokens of the model
// without buckets and without a cache are what every token is compared with.
//
// Exit code: 0 when all tokens agree and the text outgrew a bucket on its way, 1 when not, or when
// something failed; 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bucketd/session.h"
#include "tools/npy/npy.h"

namespace bucketd {
namespace {

using Tokens = std::vector<std::int64_t>;

struct Arguments {
  std::string socket;
  std::string folder;
  std::size_t prompt = 0;
};

Tokens read_tokens(const std::string& path) {
  const Result<NpyArray> array = read_npy(path);
  if (!array) throw std::runtime_error(array.error().to_string());
  Tokens tokens(array->data.size() / sizeof(std::int64_t));
  std::memcpy(tokens.data(), array->data.data(), array->data.size());
  return tokens;
}

// Sends `tokens`, the newest of `length` in all; the token that follows, and the bucket.
Result<std::pair<std::int64_t, std::uint32_t>> step(Session& session, const Tokens& tokens,
                                                    std::int64_t length) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  Result<Request> request = session.new_request({{1, count}, {1, length}});
  if (!request) return error(request.error());
  request->input<std::int64_t>(0).copy_from(tokens);
  request->input<std::int64_t>(1).copy_from(Tokens(static_cast<std::size_t>(length), 1));
  const Result<Reply> reply = std::move(*request).run();
  if (!reply) return error(reply.error());
  return std::pair(reply->output<std::int64_t>(0).to_vector().at(tokens.size() - 1),
                   reply->bucket());
}

int generate(Client& client, const Arguments& arguments) {
  const nlohmann::json index =
      nlohmann::json::parse(std::ifstream(arguments.folder + "/index.json"));
  const nlohmann::json& prompt = index.at("prompts").at(arguments.prompt);
  const Tokens expected =
      read_tokens(arguments.folder + "/" + prompt.at("expected").get<std::string>());
  Tokens next = read_tokens(arguments.folder + "/" + prompt.at("prompt").get<std::string>());
  const std::vector<std::string> vocabulary = index.at("vocabulary");

  Result<Model> model = client.open(index.at("model"));
  Result<Session> session = model ? model->open_session() : error(model.error());
  if (!session) {
    std::fprintf(stderr, "%s\n", session.error().to_string().c_str());
    return 1;
  }
  const auto prompt_length = static_cast<std::int64_t>(next.size());
  std::string text;
  std::set<std::uint32_t> buckets;
  std::int64_t length = 0;
  std::size_t wrong = 0;
  const auto started = std::chrono::steady_clock::now();
  for (const std::int64_t wanted : expected) {
    length += static_cast<std::int64_t>(next.size());
    const auto answer = step(*session, next, length);
    if (!answer) {
      std::printf("%7d  WRONG at %lld tokens: %s\n", ::getpid(), static_cast<long long>(length),
                  answer.error().to_string().c_str());
      return 1;
    }
    wrong += answer->first == wanted ? 0 : 1;
    buckets.insert(answer->second);
    text += vocabulary.at(static_cast<std::size_t>(answer->first));
    next = {answer->first};
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
  const ModelDescription description = model->description();
  std::set<std::int64_t> caches;
  for (const std::uint32_t bucket : buckets) {
    caches.insert(description.buckets.at(bucket).inputs.at(1)[1]);
  }
  // Short of both caches it would not show that a text goes on from one bucket to the next.
  const bool is_right = wrong == 0 && caches.size() > 1;
  std::printf("%7d  %6lld  %6zu  %7zu  %6.2f  %s\n", ::getpid(),
              static_cast<long long>(prompt_length), expected.size(), buckets.size(),
              took.count() / static_cast<double>(expected.size()),
              is_right ? "ok" : (std::to_string(wrong) + " tokens are WRONG").c_str());
  std::printf("         %s ...%s\n", prompt.at("text").get<std::string>().c_str(), text.c_str());
  const Status closed = session->close();
  if (!closed.ok()) std::fprintf(stderr, "%s\n", closed.to_string().c_str());
  return is_right && closed.ok() ? 0 : 1;
}

int demo_generator_main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("One of the demo's processes that generate text.", "bucketd-demo-generator");
  app.add_option("--socket", arguments.socket, "the daemon's socket");
  app.add_option("--prompts", arguments.folder, "folder with index.json")->required();
  app.add_option("--prompt", arguments.prompt, "number of the prompt")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : 2;
  }
  Result<Client> client = Client::connect(
      {.socket_path = arguments.socket, .connect_timeout = std::chrono::seconds(60)});
  if (!client) {
    std::fprintf(stderr, "%s\n", client.error().to_string().c_str());
    return 1;
  }
  return generate(*client, arguments);
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  try {
    return bucketd::demo_generator_main(argc, argv);
  } catch (const std::exception& problem) {  // files that are missing or not as described
    std::cerr << "bucketd-demo-generator: " << problem.what() << "\n";
    return 1;
  }
}
