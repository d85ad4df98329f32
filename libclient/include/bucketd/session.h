// Session: one set of a model's state buffers (KV cache) that lives in the daemon.
//
//   auto session = model->open_session();
//   auto request = session->new_request({{1, 122}});
//   ...
//   auto reply = std::move(*request).run();
//
// Requests of one session run in the order in which they were submitted, one at a time. A session
// belongs to its user: another process of the same user may resume it by its id once nobody has it.
// Its state survives the restart of its worker; if one of its requests was being executed when the
// worker died, the session is *torn*, and answers FAILED_PRECONDITION until reset() or restore();
// Client::reset_session() mends one whose holder is gone. It does not survive the daemon.
//
// Thread safety: as Model; copies are handles to the same session. Destroying the last handle
// closes the session and frees its state, unless keep() was called; that does not wait for the
// daemon, and requests that are in flight then end or are answered CANCELLED. If the connection to
// the daemon ended before, the session is left to its idle limit instead.
//
// Fork: the session stays the parent's. In a forked child every call answers FAILED_PRECONDITION,
// and destroying the handle does nothing; once the parent has called keep(), the child may resume
// the session by its id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bucketd/client.h"

namespace bucketd {

namespace internal {
class SessionState;
}

class Session {
 public:
  // 32 hexadecimal digits. Whoever of the same user knows it can resume the session.
  const std::string& id() const;
  // Bytes of all its states.
  std::uint64_t state_bytes() const;

  // As Model::new_request, for requests of this session. Besides its errors: FAILED_PRECONDITION
  // when the session is torn; NOT_FOUND when it was closed, expired, or went with the daemon, and
  // the text says which; RESOURCE_EXHAUSTED when it was evicted. What was submitted before is
  // answered the same.
  Result<Request> new_request(std::initializer_list<Shape> shapes,
                              const RequestOptions& options = {});
  Result<Request> new_request(std::span<const Shape> shapes, const RequestOptions& options = {});
  Result<Request> new_unchecked_request(std::span<const TensorSignature> inputs,
                                        const RequestOptions& options = {});

  // Each of these first waits for this session's requests that were submitted through this client,
  // and leaves their answers to whoever takes them; `deadline` (default: the client's
  // reconnect_timeout) bounds that and the operation. DEADLINE_EXCEEDED says which of the two took
  // too long: the operation may still be done later. ABORTED: the daemon went meanwhile.

  // The initial values, in all states.
  Status reset(Deadline deadline = std::nullopt);
  // Keeps `length` positions along the sequence dim that the artifact names; the rest gets its
  // initial values. Where positions lie at the end (right-aligned), `current_length` says how many
  // are in use: the oldest `length` of them are kept, and move to the end.
  // Errors: FAILED_PRECONDITION if no state names a sequence dim, OUT_OF_RANGE.
  Status truncate(std::int64_t length, std::optional<std::int64_t> current_length = std::nullopt,
                  Deadline deadline = std::nullopt);
  // Copies the state to memory of the daemon, in place of the former copy, and back from it.
  // restore() without one: FAILED_PRECONDITION.
  Status checkpoint(Deadline deadline = std::nullopt);
  Status restore(Deadline deadline = std::nullopt);
  // A new session that begins with this one's state.
  Result<Session> fork(Deadline deadline = std::nullopt);
  // The bytes of state number `state`, row-major at its largest shape, as they are now; also of a
  // torn session. For debugging: it is read in pieces, between which others may change it.
  Result<std::vector<std::byte>> read_state(std::size_t state, Deadline deadline = std::nullopt);

  // Closes the session: its state is gone. What is in flight ends first, or is answered CANCELLED
  // if it takes longer than `deadline`. Afterwards all handles answer NOT_FOUND.
  Status close(Deadline deadline = std::nullopt);
  // Gives it up, state and all, to whoever of this user resumes it by its id, or to its idle limit.
  // Afterwards all handles answer FAILED_PRECONDITION. DEADLINE_EXCEEDED while a request of it
  // still runs: call it again. FAILED_PRECONDITION for the state of a model of scope `model`, which
  // stays anyway.
  Status keep(Deadline deadline = std::nullopt);

 private:
  friend class Model;
  explicit Session(std::shared_ptr<internal::SessionState> state);
  std::shared_ptr<internal::SessionState> state_;
};

}  // namespace bucketd
