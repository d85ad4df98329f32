// RequestQueue: which request runs next.
//
// Round robin over clients; of one client the highest priority, then the oldest. Requests of one
// session run strictly in the order in which they came, one at a time: only the oldest takes part,
// whatever the priority of the others.
//
// Invariants: a request is in exactly one of: its client's heap, its session's waiting list, or
// nowhere (being executed or free). A client is in the ring of clients exactly when its heap is not
// empty. Nothing allocates after ClientQueue::reserve.
//
// Thread safety: none; guarded by the Scheduler's mutex. Owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/channel_layout.h"

namespace bucketd {

class ClientQueue;
class Lane;
struct QueuedRequest;
struct Session;
struct SessionOperation;

// The order of one session's requests.
struct SessionOrder {
  bool is_busy = false;  // one of its requests is in a heap or being executed
  QueuedRequest* first_waiting = nullptr;
  QueuedRequest* last_waiting = nullptr;
};

// One request that was taken: lives in its lane, one for each slot. Or an operation on a session,
// which is queued like one: lives in that.
struct QueuedRequest {
  SubmissionEntry entry{};
  Lane* lane = nullptr;                   // null: an operation
  SessionOperation* operation = nullptr;  // null: a request
  ClientQueue* client = nullptr;
  std::shared_ptr<Session> session;  // null: none, or not found
  SessionOrder* order = nullptr;     // that of `session`
  std::uint64_t taken_ns = 0;
  std::uint64_t sequence = 0;  // grows with every request of the queue
  QueuedRequest* next_waiting = nullptr;
  bool is_queued = false;
};

// The requests of one client connection, over all its lanes.
class ClientQueue {
 public:
  // Makes room for `count` more requests: the slots of another lane.
  void add_capacity(std::size_t count) {
    capacity_ += count;
    heap_.reserve(capacity_);
  }
  void remove_capacity(std::size_t count) { capacity_ -= count; }

 private:
  friend class RequestQueue;
  std::vector<QueuedRequest*> heap_;
  std::size_t capacity_ = 0;
  ClientQueue* next_ = nullptr;  // in the ring of clients
};

class RequestQueue {
 public:
  // Of all clients, those that wait for their session included.
  std::size_t size() const { return size_; }
  // Whether pop() would give one.
  bool has_ready() const { return first_ != nullptr; }

  // request.lane or operation, client, entry, session and order are set.
  void add(QueuedRequest& request);

  // The next request to run, or null.
  QueuedRequest* pop();

  // A request of this order, given by pop(), has ended: the next one of the session takes part.
  void finish(SessionOrder& order);

  // Takes out a request that is queued.
  void remove(QueuedRequest& request);

 private:
  void push_ready(QueuedRequest& request);
  void unlink(ClientQueue& client);

  ClientQueue* first_ = nullptr;  // ring of clients with ready requests, in turn
  ClientQueue* last_ = nullptr;
  std::size_t size_ = 0;
  std::uint64_t next_sequence_ = 0;
};

}  // namespace bucketd
