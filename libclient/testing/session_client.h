// What tests of sessions do over and over.
#pragma once

#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "bucketd/session.h"
#include "libclient/testing/echo_client.h"

namespace bucketd::testing {

// A request of `session` that leaves `mark` in the state's log.
inline Result<Request> marked_request(Session& session, std::int64_t mark, std::int64_t size = 3) {
  Result<Request> request = session.new_request({{1, size}, {1, size}});
  if (!request) return request;
  request->input<std::int64_t>(0).copy_from(ids_from(mark, size));
  request->input<float>(1).copy_from(scores_from(mark, size));
  request->set_deadline(patience());
  return request;
}

// A request to the end.
inline Status mark(Session& session, std::int64_t value, std::int64_t size = 3) {
  Result<Request> request = marked_request(session, value, size);
  if (!request) return request.error();
  return status_of(std::move(*request).run());
}

// The state, read through the client: the log and nothing after it.
inline ::testing::AssertionResult has_log(Session& session,
                                          std::initializer_list<std::int64_t> expected) {
  const Result<std::vector<std::byte>> bytes = session.read_state(0);
  if (!bytes) return ::testing::AssertionFailure() << bytes.error().to_string();
  std::vector<std::int64_t> log(kLogSize);
  if (bytes->size() != log.size() * sizeof(std::int64_t)) {
    return ::testing::AssertionFailure() << bytes->size() << " bytes";
  }
  std::memcpy(log.data(), bytes->data(), bytes->size());
  if (log == whole_log(expected)) return ::testing::AssertionSuccess();
  log.resize(expected.size() + 3);
  return ::testing::AssertionFailure() << "the log is " << ::testing::PrintToString(log) << " ...";
}

class SessionTransports : public BothTransports {
 protected:
  SessionTransports() { daemon.add_model(stateful_model()); }

  Model open_model(Client& client) { return get(client.open("stateful")); }
  std::size_t count_messages(const std::string& name) const {
    const std::vector<std::string> messages = daemon.session_messages();
    return static_cast<std::size_t>(std::count(messages.begin(), messages.end(), name));
  }
};

}  // namespace bucketd::testing
