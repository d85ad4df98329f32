// ModelLoader: the thread that loads models, one after the other. Loading may take minutes, in
// which clients of other models come and go.
//
// Thread safety: everything but the thread itself belongs to the control thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "daemon/backends/backend.h"
#include "daemon/worker/event_fd.h"
#include "daemon/worker/status_page.h"

namespace bucketd {

class ModelLoader {
 public:
  // Starts the thread. `control` is notified when something is loaded. Everything given outlives
  // this.
  ModelLoader(Backend& backend, const StatusPage& status, const EventFd& control);
  // Waits for a load that is under way; what is queued is not begun.
  ~ModelLoader();
  ModelLoader(const ModelLoader&) = delete;
  ModelLoader& operator=(const ModelLoader&) = delete;

  struct Request {
    std::uint64_t request_id = 0;
    std::uint32_t model_id = 0;
    UniqueFd artifact;
    std::string name;
  };
  void load(Request request);

  struct Outcome {
    std::uint64_t request_id = 0;
    std::uint32_t model_id = 0;
    Result<std::unique_ptr<BucketModel>> model;
  };
  // What was loaded, or failed, since the last call.
  std::vector<Outcome> take_outcomes();

 private:
  void run();

  Backend& backend_;
  const StatusPage& status_;
  const EventFd& control_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Request> requests_;
  std::vector<Outcome> outcomes_;
  bool is_stopping_ = false;

  std::thread thread_;  // last: uses all of it
};

}  // namespace bucketd
