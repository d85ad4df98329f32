// The least that calls a model: hello MODEL LENGTH sends LENGTH ones (int64, [1, LENGTH]) to every
// input and prints the first output.
#include <bucketd/client.h>

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "bert";
  const std::int64_t length = argc > 2 ? std::atoll(argv[2]) : 122;
  auto client = bucketd::Client::connect({.connect_timeout = std::chrono::seconds(10)});
  if (!client) return std::cerr << client.error().to_string() << "\n", 1;
  auto model = client->open(name);
  if (!model) return std::cerr << model.error().to_string() << "\n", 1;

  const std::size_t inputs = model->description().inputs.size();
  auto request = model->new_request(std::vector<bucketd::Shape>(inputs, {1, length}));
  if (!request) return std::cerr << request.error().to_string() << "\n", 1;
  const std::vector<std::int64_t> ones(length, 1);
  for (std::size_t i = 0; i < inputs; ++i) request->input<std::int64_t>(i).copy_from(ones);

  auto reply = std::move(*request).run();
  if (!reply) return std::cerr << reply.error().to_string() << "\n", 1;
  std::cout << "bucket " << reply->bucket() << ":";
  for (const float value : reply->output<float>(0).to_vector()) std::cout << " " << value;
  std::cout << "\n";
}
