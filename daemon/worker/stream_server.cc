#include "daemon/worker/stream_server.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/monotonic_clock.h"

namespace bucketd {
namespace {

constexpr std::uint64_t kMail = ~std::uint64_t{0};  // channel ids are the supervisor's counter

}  // namespace

Result<std::unique_ptr<StreamServer>> StreamServer::make(Scheduler& scheduler, EndSink on_end) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return error(status_from_errno("create an epoll instance", errno));
  Result<EventFd> event = EventFd::make();
  if (!event) return error(event.error());
  auto mailbox = std::make_shared<StreamMailbox>(std::move(*event));
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.u64 = kMail;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, mailbox->event.fd(), &interest) != 0) {
    return error(status_from_errno("watch an eventfd", errno));
  }
  return std::unique_ptr<StreamServer>(
      new StreamServer(scheduler, std::move(on_end), std::move(epoll), std::move(mailbox)));
}

StreamServer::StreamServer(Scheduler& scheduler, EndSink on_end, UniqueFd epoll,
                           std::shared_ptr<StreamMailbox> mailbox)
    : scheduler_(scheduler),
      on_end_(std::move(on_end)),
      epoll_(std::move(epoll)),
      mailbox_(std::move(mailbox)) {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "stream");
    run();
  });
}

StreamServer::~StreamServer() {
  is_stopping_.store(true, std::memory_order_release);
  mailbox_->event.notify();
  thread_.join();
}

void StreamServer::add(std::shared_ptr<StreamLane> lane, UniqueFd socket) {
  {
    const std::lock_guard lock(mutex_);
    added_.push_back(std::make_unique<Served>(std::move(lane), std::move(socket)));
  }
  mailbox_->event.notify();
}

void StreamServer::when_read(std::uint64_t connection_id, std::function<void()> then) {
  {
    const std::lock_guard lock(mutex_);
    questions_.push_back({connection_id, std::move(then)});
  }
  mailbox_->event.notify();
}

void StreamServer::run() {
  std::array<epoll_event, 64> events;
  while (!is_stopping_.load(std::memory_order_acquire)) {
    const int timeout_ms = end_lingering();
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    for (int i = 0; i < count; ++i) {
      const std::uint64_t channel_id = events[i].data.u64;
      if (channel_id == kMail) {
        take_mail();
      } else if ((events[i].events & (EPOLLHUP | EPOLLERR)) != 0) {
        // Reported whether watched or not. Nobody is there to read an answer.
        end(channel_id);
      } else {
        serve(channel_id, (events[i].events & EPOLLIN) != 0);
      }
    }
  }
}

void StreamServer::take_mail() {
  mailbox_->event.drain();
  std::vector<std::unique_ptr<Served>> added;
  std::vector<Question> questions;
  {
    const std::lock_guard lock(mutex_);
    added.swap(added_);
    questions.swap(questions_);
  }
  for (std::unique_ptr<Served>& served : added) {
    const std::uint64_t channel_id = served->connection.lane().channel().id();
    epoll_event interest{};
    interest.events = served->watched = EPOLLIN;
    interest.data.u64 = channel_id;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, served->connection.socket(), &interest);
    served_.emplace(channel_id, std::move(served));
  }
  std::vector<std::uint64_t> noted;
  {
    const std::lock_guard lock(mailbox_->mutex);
    noted.swap(mailbox_->noted);
  }
  for (const std::uint64_t channel_id : noted) serve(channel_id, false);
  for (const Question& question : questions) {
    read_what_is_there(question.connection_id);
    question.then();
  }
}

void StreamServer::read_what_is_there(std::uint64_t connection_id) {
  // Serving one may end it.
  std::vector<std::pair<std::uint64_t, int>> sockets;
  for (const auto& [channel_id, served] : served_) {
    if (served->connection.lane().channel().connection_id() == connection_id) {
      sockets.emplace_back(channel_id, served->connection.socket());
    }
  }
  for (const auto& [channel_id, socket] : sockets) {
    int bytes = 0;  // at this moment: a client that goes on sending does not keep us
    if (::ioctl(socket, FIONREAD, &bytes) != 0) continue;
    for (; bytes > 0; bytes -= static_cast<int>(kStreamBytesATurn)) serve(channel_id, true);
  }
}

void StreamServer::serve(std::uint64_t channel_id, bool readable) {
  const auto found = served_.find(channel_id);
  if (found == served_.end()) return;
  Served& served = *found->second;
  StreamConnection& connection = served.connection;
  using Progress = StreamConnection::Progress;
  const Progress sent = connection.send();
  if (sent == Progress::kEnded) return end(channel_id);
  if (connection.lane().is_finished() && !connection.wants_to_write()) return end(channel_id);
  if (readable && !served.linger_until_ns) {
    const Progress received = connection.receive(scheduler_);
    if (received == Progress::kViolated) {
      scheduler_.report_violation(connection.lane().channel(), connection.violation());
      return end(channel_id);
    }
    if (received == Progress::kEnded) return end(channel_id);
  }
  if (connection.lane().is_closed() && !served.linger_until_ns) {
    served.linger_until_ns = monotonic_ns() + kLingerNs;
    lingering_.push_back(channel_id);
  }
  // Level-triggered: what is left in the socket comes back by itself. Nothing is read without a
  // free slot: that is the backpressure.
  const bool wants_to_read = connection.wants_to_read() && !served.linger_until_ns;
  const bool wants_to_write = connection.wants_to_write() || sent == Progress::kMore;
  const std::uint32_t wanted = (wants_to_read ? EPOLLIN : 0u) | (wants_to_write ? EPOLLOUT : 0u);
  if (wanted != served.watched) {
    epoll_event interest{};
    interest.events = served.watched = wanted;
    interest.data.u64 = channel_id;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.socket(), &interest);
  }
}

void StreamServer::end(std::uint64_t channel_id) {
  const auto found = served_.find(channel_id);
  if (found == served_.end()) return;
  const std::unique_ptr<Served> served = std::move(found->second);
  served_.erase(found);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, served->connection.socket(), nullptr);
  const StreamLane& lane = served->connection.lane();
  const bool by_client = !lane.is_closed();
  const std::uint32_t lane_id = lane.id();
  const GoneNotice::Flag gone = lane.gone_flag();
  // Requests that run end in memory that they hold.
  scheduler_.close_channel(channel_id);
  if (by_client && on_end_ != nullptr) on_end_(channel_id, lane_id, gone);
}

int StreamServer::end_lingering() {
  std::optional<std::uint64_t> nearest;
  const std::uint64_t now_ns = monotonic_ns();
  std::erase_if(lingering_, [&](std::uint64_t channel_id) {
    const auto found = served_.find(channel_id);
    if (found == served_.end()) return true;
    const std::uint64_t until_ns = *found->second->linger_until_ns;
    if (until_ns <= now_ns) {
      end(channel_id);
      return true;
    }
    if (!nearest || until_ns < *nearest) nearest = until_ns;
    return false;
  });
  return nearest ? static_cast<int>((*nearest - now_ns) / 1'000'000 + 1) : -1;
}

}  // namespace bucketd
