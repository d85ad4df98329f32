#include "daemon/worker/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

#include "daemon/worker/session.h"

namespace bucketd {
namespace {

using ::testing::ElementsAre;

class RequestQueueTest : public ::testing::Test {
 protected:
  QueuedRequest& add(ClientQueue& client, std::uint64_t mark, std::uint8_t priority = 0,
                     SessionOrder* order = nullptr) {
    QueuedRequest& request = requests.emplace_back();
    request.client = &client;
    request.entry.user_data = mark;
    request.entry.priority = priority;
    request.order = order;
    queue.add(request);
    return request;
  }
  std::vector<std::uint64_t> pop_all() {
    std::vector<std::uint64_t> marks;
    while (QueuedRequest* request = queue.pop()) {
      marks.push_back(request->entry.user_data);
      if (request->order != nullptr) queue.finish(*request->order);
    }
    return marks;
  }
  RequestQueue queue;
  std::deque<QueuedRequest> requests;
  ClientQueue a;
  ClientQueue b;
};

TEST_F(RequestQueueTest, gives_a_client_that_comes_later_its_turn_next) {
  for (const std::uint64_t mark : {1, 2, 3}) add(a, mark);
  EXPECT_EQ(queue.pop()->entry.user_data, 1u);
  add(b, 10);
  EXPECT_THAT(pop_all(), ElementsAre(2, 10, 3));
  EXPECT_EQ(queue.size(), 0u);
  EXPECT_FALSE(queue.has_ready());
}

TEST_F(RequestQueueTest, holds_back_all_but_the_oldest_of_a_session) {
  SessionOrder order;
  add(a, 1, 0, &order);
  add(a, 2, 9, &order);
  add(b, 3, 0, &order);
  EXPECT_EQ(queue.pop()->entry.user_data, 1u);
  EXPECT_FALSE(queue.has_ready());
  EXPECT_EQ(queue.size(), 2u);
  queue.finish(order);
  EXPECT_EQ(queue.pop()->entry.user_data, 2u);
  queue.finish(order);
  EXPECT_EQ(queue.pop()->entry.user_data, 3u);
  queue.finish(order);
  EXPECT_FALSE(order.is_busy);
}

TEST_F(RequestQueueTest, removes_what_waits_and_what_is_ready) {
  SessionOrder order;
  QueuedRequest& first = add(a, 1, 0, &order);
  QueuedRequest& second = add(a, 2, 0, &order);
  add(a, 3, 0, &order);
  add(b, 4);
  queue.remove(second);
  queue.remove(first);
  EXPECT_THAT(pop_all(), ::testing::UnorderedElementsAre(3, 4));
}

TEST_F(RequestQueueTest, does_what_a_simple_model_of_it_does) {
  // The model: per client a list of ready requests, per session a list of waiting ones, and the
  // order in which clients have their turns.
  std::mt19937 random(3);
  std::deque<ClientQueue> clients(5);
  std::deque<SessionOrder> orders(4);
  std::map<ClientQueue*, std::vector<QueuedRequest*>> ready;
  std::map<SessionOrder*, std::vector<QueuedRequest*>> sessions;  // front: ready or running
  std::deque<ClientQueue*> turns;
  std::vector<QueuedRequest*> running;
  const auto make_ready = [&](QueuedRequest* request) {
    std::vector<QueuedRequest*>& list = ready[request->client];
    if (list.empty()) turns.push_back(request->client);
    list.push_back(request);
  };
  for (int step = 0; step < 50'000; ++step) {
    const unsigned action = random() % 8;
    if (action < 3) {
      SessionOrder* order = random() % 2 == 0 ? nullptr : &orders[random() % orders.size()];
      QueuedRequest& request =
          add(clients[random() % clients.size()], static_cast<std::uint64_t>(step),
              static_cast<std::uint8_t>(random() % 3), order);
      if (order != nullptr) sessions[order].push_back(&request);
      if (order == nullptr || sessions[order].size() == 1) make_ready(&request);
    } else if (action < 6) {
      QueuedRequest* expected = nullptr;
      if (!turns.empty()) {
        ClientQueue* client = turns.front();
        turns.pop_front();
        std::vector<QueuedRequest*>& list = ready[client];
        const auto best =
            std::max_element(list.begin(), list.end(), [](const auto* x, const auto* y) {
              return x->entry.priority != y->entry.priority ? x->entry.priority < y->entry.priority
                                                            : x->sequence > y->sequence;
            });
        expected = *best;
        list.erase(best);
        if (!list.empty()) turns.push_back(client);
        running.push_back(expected);
      }
      ASSERT_EQ(queue.pop(), expected) << "step " << step;
    } else if (action == 6 && !running.empty()) {
      const std::size_t which = random() % running.size();
      SessionOrder* order = running[which]->order;
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));
      if (order != nullptr) {
        queue.finish(*order);
        sessions[order].erase(sessions[order].begin());
        if (!sessions[order].empty()) make_ready(sessions[order].front());
      }
    } else if (action == 7) {
      QueuedRequest& request = requests[random() % std::max<std::size_t>(requests.size(), 1)];
      if (!request.is_queued) continue;
      queue.remove(request);
      bool was_ready = false;
      std::vector<QueuedRequest*>& list = ready[request.client];
      if (const auto at = std::find(list.begin(), list.end(), &request); at != list.end()) {
        was_ready = true;
        list.erase(at);
        if (list.empty()) turns.erase(std::find(turns.begin(), turns.end(), request.client));
      }
      if (request.order != nullptr) {
        std::vector<QueuedRequest*>& session = sessions[request.order];
        session.erase(std::find(session.begin(), session.end(), &request));
        if (was_ready && !session.empty()) make_ready(session.front());
      }
    }
  }
}

}  // namespace
}  // namespace bucketd
