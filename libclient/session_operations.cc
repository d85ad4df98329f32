// Operations on a session as a whole. Each comes after the requests that were submitted before it.
#include <algorithm>
#include <utility>

#include "common/message_socket.h"
#include "libclient/backoff.h"
#include "libclient/channel.h"
#include "libclient/session_state.h"

namespace bucketd::internal {

using flatbuffers::FlatBufferBuilder;

Result<std::shared_ptr<Lane>> SessionState::settle(Torn torn, TimePoint deadline) {
  while (true) {
    if (const Status status = check_usable(); !status.ok()) return error(status);
    Result<std::shared_ptr<Lane>> lane = model_->lane(deadline);
    if (!lane) return lane;
    const Result<std::uint64_t> handle = handle_on(**lane, deadline);
    if (handle) {
      if ((*lane)->channel().wait_for_session(**lane, *handle, deadline)) return lane;
      return error(StatusCode::kDeadlineExceeded,
                   text() + ": its requests were not answered by the deadline; nothing was done");
    }
    // Torn, or otherwise not to be bound: what it was executing is over, and the supervisor tells
    // what can still be done with it.
    if (handle.error().code() == StatusCode::kFailedPrecondition && torn == Torn::kAllowed &&
        check_usable().ok()) {
      return lane;
    }
    if (!(*lane)->is_closed() || std::chrono::steady_clock::now() >= deadline) {
      return error(handle.error());
    }
  }
}

Result<Answer> SessionState::ask_in_order(const ControlConnection::Compose& compose,
                                          wire::Body expected, Torn torn, LateSession late,
                                          TimePoint deadline, std::shared_ptr<Lane>& lane) {
  Backoff backoff;
  while (true) {
    Result<std::shared_ptr<Lane>> settled = settle(torn, deadline);
    if (!settled) return error(settled.error());
    lane = std::move(*settled);
    Result<Answer> answer = lane->connection().call(compose, expected, deadline, late);
    if (answer || answer.error().code() != StatusCode::kUnavailable) return answer;
    if (lane->connection().has_ended()) {
      return error(StatusCode::kAborted, text() +
                                             ": the connection to the daemon ended before it "
                                             "said whether the operation was done: " +
                                             answer.error().message());
    }
    if (!backoff.wait(deadline)) return answer;
  }
}

Status SessionState::operate(wire::SessionOperation operation, std::int64_t length,
                             std::int64_t current_length, TimePoint deadline) {
  const bool heals =
      operation == wire::SessionOperation::kReset || operation == wire::SessionOperation::kRestore;
  const auto compose = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto id = builder.CreateString(id_);
    return {wire::Body::OperateSession,
            wire::CreateOperateSession(builder, id, operation, length, current_length).Union()};
  };
  std::shared_ptr<Lane> lane;
  const Result<Answer> answer =
      ask_in_order(compose, wire::Body::SessionOpened, heals ? Torn::kAllowed : Torn::kRefused,
                   LateSession::kIgnore, deadline, lane);
  if (!answer) return answer.error();
  const Result<std::uint64_t> handle = bound(*lane, *answer->message().body_as_SessionOpened());
  return handle ? Status() : handle.error();
}

Result<std::shared_ptr<SessionState>> SessionState::fork(TimePoint deadline) {
  const auto compose = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto id = builder.CreateString(id_);
    return {wire::Body::ForkSession, wire::CreateForkSession(builder, id).Union()};
  };
  std::shared_ptr<Lane> lane;
  const Result<Answer> answer = ask_in_order(compose, wire::Body::SessionOpened, Torn::kRefused,
                                             LateSession::kClose, deadline, lane);
  if (!answer) return error(answer.error());
  return make(model_, *lane, *answer->message().body_as_SessionOpened());
}

Result<std::vector<std::byte>> SessionState::read_state(std::size_t state, TimePoint deadline) {
  std::vector<std::byte> bytes;
  while (true) {
    const auto compose = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
      const auto id = builder.CreateString(id_);
      return {wire::Body::ReadState,
              wire::CreateReadState(builder, id, static_cast<std::uint32_t>(state), bytes.size(),
                                    kMaxStateReadBytes)
                  .Union()};
    };
    std::shared_ptr<Lane> lane;
    const Result<Answer> answer = ask_in_order(compose, wire::Body::StateBytes, Torn::kAllowed,
                                               LateSession::kIgnore, deadline, lane);
    if (!answer) return error(answer.error());
    const wire::StateBytes& read = *answer->message().body_as_StateBytes();
    const std::size_t count = read.bytes() == nullptr ? 0 : read.bytes()->size();
    const std::uint64_t total = read.total_bytes();
    const bool is_last = bytes.size() + count == total;
    if (total > state_bytes_ || bytes.size() + count > total || (count == 0 && !is_last)) {
      return error(StatusCode::kInternal, text() + ": the daemon sent " + std::to_string(count) +
                                              " bytes at " + std::to_string(bytes.size()) +
                                              " of a state of " + std::to_string(total));
    }
    bytes.reserve(total);
    const auto* const data =
        count == 0 ? nullptr : reinterpret_cast<const std::byte*>(read.bytes()->data());
    bytes.insert(bytes.end(), data, data + count);
    if (is_last) return bytes;
  }
}

}  // namespace bucketd::internal
