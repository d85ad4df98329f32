// GoneNotice: tells the control thread that the last holder of a shared object has let go of it.
//
// An object declares it as its first member, so that it is destroyed last: when the notice comes,
// everything the object had mapped is unmapped.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "daemon/worker/event_fd.h"

namespace bucketd {

class GoneNotice {
 public:
  using Flag = std::shared_ptr<std::atomic<bool>>;

  GoneNotice() = default;
  // Sets `flag` and notifies `control` (which outlives this; may be null) at its end.
  GoneNotice(Flag flag, const EventFd* control) : flag_(std::move(flag)), control_(control) {}
  GoneNotice(GoneNotice&& other) noexcept
      : flag_(std::move(other.flag_)), control_(std::exchange(other.control_, nullptr)) {}
  GoneNotice& operator=(GoneNotice&&) = delete;
  ~GoneNotice() {
    if (flag_ == nullptr) return;
    flag_->store(true, std::memory_order_release);
    if (control_ != nullptr) control_->notify();
  }

  // Null if nobody wants to know. True (acquire) when the object is gone.
  const Flag& flag() const { return flag_; }

 private:
  Flag flag_;
  const EventFd* control_ = nullptr;
};

}  // namespace bucketd
