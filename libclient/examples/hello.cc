#include <bucketd/client.h>

#include <iostream>

int main() {
  auto client = bucketd::Client::connect({.connect_timeout = std::chrono::seconds(10)});
  if (!client) return std::cerr << client.error().to_string() << "\n", 1;
  auto model = client->open("bert");
  if (!model) return std::cerr << model.error().to_string() << "\n", 1;
  auto request = model->new_request({{1, 122}, {1, 122}});  // input_ids, attention_mask
  if (!request) return std::cerr << request.error().to_string() << "\n", 1;
  const std::vector<std::int64_t> ones(122, 1);
  request->input<std::int64_t>(0).copy_from(ones);  // straight into the padded bucket's slot
  request->input<std::int64_t>(1).copy_from(ones);
  auto reply = std::move(*request).run();
  if (!reply) return std::cerr << reply.error().to_string() << "\n", 1;
  std::cout << "bucket " << reply->bucket() << ":";
  for (const float logit : reply->output<float>(0).to_vector()) std::cout << " " << logit;
  std::cout << "\n";
}
