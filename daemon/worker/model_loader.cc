#include "daemon/worker/model_loader.h"

#include <pthread.h>

#include <utility>

namespace bucketd {

ModelLoader::ModelLoader(Backend& backend, const StatusPage& status, const EventFd& control)
    : backend_(backend), status_(status), control_(control) {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "loader");
    run();
  });
}

ModelLoader::~ModelLoader() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void ModelLoader::load(Request request) {
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::move(request));
  }
  changed_.notify_one();
}

std::vector<ModelLoader::Outcome> ModelLoader::take_outcomes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcomes_, {});
}

void ModelLoader::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return is_stopping_ || !requests_.empty(); });
    if (is_stopping_) return;
    const Request request = std::move(requests_.front());
    requests_.pop_front();
    lock.unlock();
    status_.set_loading(request.model_id + 1);
    Result<std::unique_ptr<BucketModel>> model =
        backend_.load(request.artifact.get(), request.name);
    status_.set_loading(0);
    lock.lock();
    outcomes_.push_back({request.request_id, request.model_id, std::move(model)});
    control_.notify();
  }
}

}  // namespace bucketd
