// A conversation with a model that keeps its state (a KV cache) in the daemon.
//
//   bucketd-session MODEL [ID]
//
// One input of token ids [1, n], one output of logits. Feeds the prompt, then each next token by
// itself. With ID it goes on with the session that an earlier run kept.
#include <bucketd/client.h>
#include <bucketd/session.h>

#include <algorithm>
#include <iostream>
#include <vector>

namespace {

bucketd::Result<std::int64_t> next_token(bucketd::Session& session,
                                         const std::vector<std::int64_t>& ids) {
  auto request = session.new_request({{1, static_cast<std::int64_t>(ids.size())}});
  if (!request) return bucketd::error(request.error());
  request->input<std::int64_t>(0).copy_from(ids);
  const auto reply = std::move(*request).run();
  if (!reply) return bucketd::error(reply.error());
  const std::vector<float> logits = reply->output<float>(0).to_vector();
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

int fail(const bucketd::Status& status) {
  std::cerr << status.to_string() << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "usage: bucketd-session MODEL [ID]\n", 2;
  auto client = bucketd::Client::connect({.connect_timeout = std::chrono::seconds(10)});
  if (!client) return fail(client.error());
  auto model = client->open(argv[1]);
  if (!model) return fail(model.error());
  auto session = argc > 2 ? model->resume_session(argv[2]) : model->open_session();
  if (!session) return fail(session.error());

  std::vector<std::int64_t> ids{1, 2, 3};  // the prompt; the state remembers what came before
  for (int i = 0; i < 10; ++i) {
    const auto token = next_token(*session, ids);
    if (!token) return fail(token.error());
    std::cout << *token << " " << std::flush;
    ids = {*token};
  }
  // Without this the session, and its state, would end with its last handle.
  if (const auto status = session->keep(); !status.ok()) return fail(status);
  std::cout << "\ngo on with: bucketd-session " << argv[1] << " " << session->id() << "\n";
}
