#include "daemon/worker/testing/serving.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace bucketd::testing {
namespace {

constexpr std::chrono::seconds kPatience(30);

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().to_string().c_str());
    std::abort();
  }
  return std::move(*result);
}

}  // namespace

void Gate::pass() {
  std::unique_lock lock(mutex_);
  ++visitors_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return is_open_ || passes_ > 0; });
  if (!is_open_) --passes_;
}

void Gate::open() {
  const std::lock_guard lock(mutex_);
  is_open_ = true;
  changed_.notify_all();
}

void Gate::open_once() {
  const std::lock_guard lock(mutex_);
  ++passes_;
  changed_.notify_all();
}

bool Gate::wait_for_visitors(int count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return visitors_ >= count; });
}

int Gate::visitors() const {
  const std::lock_guard lock(mutex_);
  return visitors_;
}

Serving::Serving(const ServingOptions& options)
    : backend([](const std::string&) -> Result<std::unique_ptr<BucketModel>> {
        return error(StatusCode::kUnimplemented, "models are added, not loaded");
      }),
      options_(options) {
  control_ = std::make_unique<EventFd>(must(EventFd::make()));
  const UniqueFd page = must(create_memfd("test-status", kWorkerStatusBytes));
  status_ = std::make_unique<StatusPage>(must(StatusPage::open(page)));
  scheduler_ = must(Scheduler::make({.policy = options.policy, .spin_us = 0}, *control_, *status_,
                                    [this](std::uint64_t channel_id, const std::string& reason) {
                                      const std::lock_guard lock(mutex_);
                                      violations_.emplace_back(channel_id, reason);
                                      violated_.notify_all();
                                    }));
  executors_ = std::make_unique<Executors>(options.executors, backend, *scheduler_, *status_);
}

Serving::~Serving() { stop(); }

void Serving::stop() {
  scheduler_->stop();
  executors_ = nullptr;
}

std::shared_ptr<LoadedModel> Serving::add_model(ModelDescription description,
                                                FakeModel::Hook hook) {
  return std::make_shared<LoadedModel>(
      static_cast<std::uint32_t>(next_id_++),
      std::make_unique<FakeModel>(std::move(description), std::move(hook)));
}

std::unique_ptr<Serving::Client> Serving::connect(const std::shared_ptr<LoadedModel>& model,
                                                  std::uint32_t slots, std::uint64_t slot_bytes,
                                                  std::uint64_t connection_id) {
  auto client = std::make_unique<Client>();
  client->channel_id = next_id_++;
  client->lane = std::make_unique<RingClientLane>(client->ring, slots, slot_bytes, slot_bytes);
  std::shared_ptr<RingChannel> channel = must(RingChannel::open(
      client->channel_id, connection_id != 0 ? connection_id : client->channel_id, 1,
      client->ring.region_a, client->ring.region_b, std::move(client->ring.worker_socket),
      GoneNotice(std::make_shared<std::atomic<bool>>(false), control_.get())));
  scheduler_->add_ring_channel(channel);
  const bool added = scheduler_->add_lane(must(RingLane::open(
      channel, 1, model, client->lane->layout, client->lane->region_a, client->lane->region_b,
      options_.max_plans, GoneNotice(std::make_shared<std::atomic<bool>>(false), control_.get()))));
  if (!added) std::abort();
  return client;
}

void Serving::add_session(const std::shared_ptr<LoadedModel>& model, std::uint64_t connection_id,
                          std::uint64_t handle, std::vector<TensorView> states, GoneNotice gone) {
  auto session = std::make_shared<Session>(handle, model, nullptr, std::move(states), nullptr);
  if (!session->bind(/*initialises=*/false).ok()) std::abort();
  const bool added = scheduler_->add_session(connection_id, std::move(session), std::move(gone));
  if (!added) std::abort();
}

std::vector<std::pair<std::uint64_t, std::string>> Serving::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

bool Serving::wait_for_violation() {
  std::unique_lock lock(mutex_);
  return violated_.wait_for(lock, kPatience, [&] { return !violations_.empty(); });
}

bool Serving::wait_until_idle() {
  // There is no event for this: the state is looked at until it is there.
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < give_up) {
    if (scheduler_->has_sleeping_leader() &&
        scheduler_->follower_count() + 1 == options_.executors) {
      return true;
    }
    std::this_thread::yield();
  }
  return false;
}

}  // namespace bucketd::testing
