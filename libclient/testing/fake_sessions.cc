#include "libclient/testing/fake_sessions.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace bucketd::testing {

ModelDescription stateful_model(const std::string& name) {
  ModelDescription model = echo_model(name);
  model.states = {{"log", DType::kInt64, {1, kLogSize}, 1}};
  for (BucketSpec& bucket : model.buckets) bucket.states = {{1, kLogSize}};
  return model;
}

std::vector<std::int64_t> whole_log(std::vector<std::int64_t> log) {
  const auto used = static_cast<std::int64_t>(log.size());
  log.resize(kLogSize);
  for (std::int64_t i = used; i < kLogSize; ++i) log[static_cast<std::size_t>(i)] = -i;
  return log;
}

Result<FakeSession*> FakeSessions::find(const std::string& id) {
  if (const auto ended = ended_.find(id); ended != ended_.end()) return error(ended->second);
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return error(StatusCode::kNotFound, "no session '" + id + "'");
  return &found->second;
}

FakeSession& FakeSessions::add(std::uint64_t connection, const std::string& model) {
  const std::string number = std::to_string(next_id_++);
  const std::string id = std::string(32 - number.size(), '0') + number;
  FakeSession& session = sessions_[id];
  session.id = id;
  session.handle = next_handle_++;
  session.model = model;
  session.connection = connection;
  return session;
}

Result<const FakeSession*> FakeSessions::open(std::uint64_t connection,
                                              const ModelDescription& model,
                                              const std::string& id) {
  if (model.states.empty()) {
    return error(StatusCode::kFailedPrecondition, "model '" + model.name + "' holds no state");
  }
  if (id.empty()) return &add(connection, model.name);
  const Result<FakeSession*> found = find(id);
  if (!found) return error(found.error());
  FakeSession& session = **found;
  if (session.model != model.name) {
    return error(StatusCode::kInvalidArgument, "session '" + id + "' is one of model '" +
                                                   session.model + "', not of '" + model.name +
                                                   "'");
  }
  if (session.is_torn) {
    return error(StatusCode::kFailedPrecondition,
                 "session '" + id + "' is torn: reset or restore it");
  }
  if (session.connection != 0 && session.connection != connection) {
    return error(StatusCode::kFailedPrecondition, "session '" + id + "' is in use");
  }
  session.connection = connection;
  return &session;
}

Result<const FakeSession*> FakeSessions::operate(std::uint64_t connection, const std::string& id,
                                                 wire::SessionOperation operation,
                                                 std::int64_t length, bool stays_idle) {
  const Result<FakeSession*> found = find(id);
  if (!found) return error(found.error());
  FakeSession& session = **found;
  const bool heals =
      operation == wire::SessionOperation::kReset || operation == wire::SessionOperation::kRestore;
  if (session.is_torn && !heals) {
    return error(StatusCode::kFailedPrecondition,
                 "session '" + id + "' is torn: reset or restore it");
  }
  const bool stays_closed = stays_idle && heals && session.connection == 0;
  if (!session.is_torn && session.connection != connection && !stays_closed) {
    return error(StatusCode::kFailedPrecondition, "session '" + id + "' is not open here");
  }
  switch (operation) {
    case wire::SessionOperation::kReset:
      session.log.clear();
      break;
    case wire::SessionOperation::kTruncate:
      if (length > kLogSize) return error(StatusCode::kOutOfRange, "too long");
      session.log.resize(std::min(session.log.size(), static_cast<std::size_t>(length)));
      break;
    case wire::SessionOperation::kCheckpoint:
      session.checkpoint = session.log;
      break;
    case wire::SessionOperation::kRestore:
      if (!session.checkpoint) {
        return error(StatusCode::kFailedPrecondition, "session '" + id + "' has no checkpoint");
      }
      session.log = *session.checkpoint;
      break;
  }
  session.is_torn = false;
  if (!stays_closed) session.connection = connection;
  return &session;
}

Result<const FakeSession*> FakeSessions::fork(std::uint64_t connection, const std::string& id) {
  const Result<FakeSession*> found = find(id);
  if (!found) return error(found.error());
  if ((*found)->is_torn) return error(StatusCode::kFailedPrecondition, "it is torn");
  FakeSession& forked = add(connection, (*found)->model);
  forked.log = (*found)->log;
  return &forked;
}

Result<std::span<const std::byte>> FakeSessions::state_of(const std::string& id) {
  const Result<FakeSession*> found = find(id);
  if (!found) return error(found.error());
  const std::vector<std::int64_t> whole = whole_log((*found)->log);
  const auto bytes = std::as_bytes(std::span(whole));
  read_.assign(bytes.begin(), bytes.end());
  return std::span<const std::byte>(read_);
}

Status FakeSessions::close(std::uint64_t connection, const std::string& id, bool keep_state) {
  const Result<FakeSession*> found = find(id);
  if (!found) return found.error();
  if (!keep_state) {
    end(id, Status(StatusCode::kNotFound, "session '" + id + "' was closed"));
  } else if ((*found)->connection != connection) {
    return Status(StatusCode::kFailedPrecondition, "session '" + id + "' is not open here");
  } else {
    (*found)->connection = 0;
  }
  return Status();
}

Status FakeSessions::execute(std::uint64_t connection, std::uint64_t handle,
                             const Submission& submission) {
  for (auto& [id, session] : sessions_) {
    if (session.handle != handle || session.connection != connection || session.is_torn) continue;
    InputDescriptor ids{};
    std::memcpy(&ids, submission.slot.data(), sizeof(ids));
    std::memcpy(&session.log.emplace_back(), submission.slot.data() + ids.offset,
                sizeof(std::int64_t));
    return Status();
  }
  return Status(StatusCode::kNotFound, "this connection has no session " + std::to_string(handle));
}

void FakeSessions::connection_ended(std::uint64_t connection) {
  for (auto& [id, session] : sessions_) {
    if (session.connection == connection) session.connection = 0;
  }
}

void FakeSessions::worker_died(std::span<const std::uint64_t> executing) {
  for (auto& [id, session] : sessions_) {
    for (const std::uint64_t handle : executing) {
      if (session.handle == handle) session.is_torn = true;
    }
    session.handle = next_handle_++;
  }
}

void FakeSessions::end(const std::string& id, const Status& why) {
  if (sessions_.erase(id) == 0) std::abort();
  ended_[id] = why;
}

void FakeSessions::forget_all() {
  sessions_.clear();
  ended_.clear();
}

}  // namespace bucketd::testing
