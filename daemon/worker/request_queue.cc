#include "daemon/worker/request_queue.h"

#include <algorithm>
#include <cassert>

namespace bucketd {
namespace {

// Heap order: whether `a` runs after `b`.
bool runs_after(const QueuedRequest* a, const QueuedRequest* b) {
  if (a->entry.priority != b->entry.priority) return a->entry.priority < b->entry.priority;
  return a->sequence > b->sequence;
}

}  // namespace

void RequestQueue::push_ready(QueuedRequest& request) {
  ClientQueue& client = *request.client;
  client.heap_.push_back(&request);
  std::push_heap(client.heap_.begin(), client.heap_.end(), runs_after);
  if (client.heap_.size() > 1) return;  // it has its place in the ring
  client.next_ = nullptr;
  if (last_ != nullptr) {
    last_->next_ = &client;
  } else {
    first_ = &client;
  }
  last_ = &client;
}

void RequestQueue::unlink(ClientQueue& client) {
  ClientQueue* previous = nullptr;
  ClientQueue* at = first_;
  while (at != &client) {
    previous = at;
    at = at->next_;
  }
  (previous != nullptr ? previous->next_ : first_) = client.next_;
  if (last_ == &client) last_ = previous;
  client.next_ = nullptr;
}

void RequestQueue::add(QueuedRequest& request) {
  assert(!request.is_queued);
  request.is_queued = true;
  request.sequence = next_sequence_++;
  request.next_waiting = nullptr;
  ++size_;
  SessionOrder* order = request.order;
  if (order != nullptr && order->is_busy) {
    if (order->last_waiting != nullptr) {
      order->last_waiting->next_waiting = &request;
    } else {
      order->first_waiting = &request;
    }
    order->last_waiting = &request;
    return;
  }
  if (order != nullptr) order->is_busy = true;
  push_ready(request);
}

QueuedRequest* RequestQueue::pop() {
  if (first_ == nullptr) return nullptr;
  ClientQueue& client = *first_;
  std::pop_heap(client.heap_.begin(), client.heap_.end(), runs_after);
  QueuedRequest* request = client.heap_.back();
  client.heap_.pop_back();
  // To the back of the ring, or out of it.
  first_ = client.next_;
  if (first_ == nullptr) last_ = nullptr;
  client.next_ = nullptr;
  if (!client.heap_.empty()) {
    (last_ != nullptr ? last_->next_ : first_) = &client;
    last_ = &client;
  }
  request->is_queued = false;
  --size_;
  return request;
}

void RequestQueue::finish(SessionOrder& order) {
  assert(order.is_busy);
  QueuedRequest* next = order.first_waiting;
  if (next == nullptr) {
    order.is_busy = false;
    return;
  }
  order.first_waiting = next->next_waiting;
  if (order.first_waiting == nullptr) order.last_waiting = nullptr;
  next->next_waiting = nullptr;
  push_ready(*next);
}

void RequestQueue::remove(QueuedRequest& request) {
  assert(request.is_queued);
  request.is_queued = false;
  --size_;
  SessionOrder* order = request.order;
  if (order != nullptr) {
    QueuedRequest* previous = nullptr;
    for (QueuedRequest* at = order->first_waiting; at != nullptr; at = at->next_waiting) {
      if (at == &request) {
        (previous != nullptr ? previous->next_waiting : order->first_waiting) = at->next_waiting;
        if (order->last_waiting == at) order->last_waiting = previous;
        at->next_waiting = nullptr;
        return;
      }
      previous = at;
    }
  }
  std::vector<QueuedRequest*>& heap = request.client->heap_;
  heap.erase(std::find(heap.begin(), heap.end(), &request));
  if (heap.empty()) {
    unlink(*request.client);
  } else {
    std::make_heap(heap.begin(), heap.end(), runs_after);
  }
  if (order != nullptr) finish(*order);
}

}  // namespace bucketd
