#include "daemon/supervisor/worker_process.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>

#include "common/message_socket.h"
#include "common/system_error.h"
#include "daemon/supervisor/worker_spawn.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace bucketd::supervisor {
namespace {

constexpr int kMessagesPerTurn = 64;
// Until a message is tried again that the system had no room for.
constexpr std::chrono::milliseconds kSendRetry{10};

link::WakeupPolicy to_link(WakeupChoice choice) {
  switch (choice) {
    case WakeupChoice::kFutex:
      return link::WakeupPolicy::kFutex;
    case WakeupChoice::kSocket:
      return link::WakeupPolicy::kSocket;
    case WakeupChoice::kAuto:
      break;
  }
  return link::WakeupPolicy::kAuto;
}

}  // namespace

Result<std::shared_ptr<WorkerProcess>> WorkerProcess::start(asio::io_context& context,
                                                            const WorkerLaunch& launch,
                                                            Callbacks callbacks) {
  Result<UniqueFd> page = create_memfd("bucketd-worker-status", kWorkerStatusBytes);
  if (!page) return error(page.error());
  Result<MappedRegion> map = map_memfd(page->get(), kWorkerStatusBytes, MapAccess::kReadOnly);
  if (!map) return error(map.error());
  Result<SocketPair> link = make_socket_pair(SOCK_SEQPACKET);
  if (!link) return error(link.error());
  Result<SpawnedProcess> spawned = spawn_worker(launch.executable, link->second.get());
  if (!spawned) return error(spawned.error());
  std::shared_ptr<WorkerProcess> process(
      new WorkerProcess(context, launch, std::move(callbacks), spawned->pid,
                        std::move(spawned->pidfd), std::move(link->first), std::move(*map)));
  process->wait_dead();
  process->wait_readable();
  process->send_configure(launch, std::move(*page));
  return process;
}

WorkerProcess::WorkerProcess(asio::io_context& context, const WorkerLaunch& launch,
                             Callbacks callbacks, pid_t pid, UniqueFd pidfd, UniqueFd link,
                             MappedRegion page)
    : callbacks_(std::move(callbacks)),
      incarnation_(launch.incarnation),
      pid_(pid),
      pidfd_(context, pidfd.release()),
      link_(context, link.release()),
      page_(std::move(page)),
      answer_timeout_(launch.answer_timeout),
      answer_timer_(context),
      send_timer_(context) {}

WorkerProcess::~WorkerProcess() {
  if (!alive_) return;
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

const WorkerStatus& WorkerProcess::status_page() const {
  return *static_cast<const WorkerStatus*>(page_.get_address());
}

void WorkerProcess::send_configure(const WorkerLaunch& launch, UniqueFd page) {
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(page));
  ask(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        return link::CreateConfigure(
            builder, launch.worker_id, launch.incarnation, launch.mode, launch.worker.first_core,
            launch.worker.cores, launch.worker.threads_per_core, to_link(launch.wakeup.policy),
            launch.wakeup.spin_us, 256,
            builder.CreateVectorOfStrings(launch.worker.operator_libraries),
            builder.CreateString(launch.log_level));
      },
      std::move(fds), nullptr);
}

void WorkerProcess::send(flatbuffers::FlatBufferBuilder& builder, link::Body type,
                         flatbuffers::Offset<void> body, std::vector<UniqueFd> fds, Answer answer,
                         Due due) {
  const std::uint64_t request_id = next_request_id_++;
  builder.Finish(link::CreateMessage(builder, request_id, type, body));
  if (!alive_) {
    // As for a death that comes a moment later, so that callers have one case and not two.
    if (answer) {
      asio::post(link_.get_executor(), [answer = std::move(answer)] { answer(nullptr); });
    }
    return;
  }
  if (answer) {
    const bool is_watched = due == Due::kPromptly && answer_timeout_.count() > 0;
    questions_.emplace(request_id,
                       Question{std::move(answer), is_watched ? Clock::now() + answer_timeout_
                                                              : Clock::time_point::max()});
    if (is_watched && !is_watching_answers_) watch_answers();
  }
  if (!link_.is_open()) return;  // its death will answer
  const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  queue_.push_back({{bytes, bytes + builder.GetSize()}, std::move(fds)});
  if (queue_.size() == 1) send_some();
}

void WorkerProcess::send_some() {
  while (link_.is_open() && !queue_.empty()) {
    std::vector<int> fds;
    for (const UniqueFd& fd : queue_.front().fds) fds.push_back(fd.get());
    const Status status = send_message(link_.native_handle(), queue_.front().bytes, fds);
    if (status.code() == StatusCode::kWouldBlock) {
      link_.async_wait(asio::posix::stream_descriptor::wait_write,
                       [weak = weak_from_this()](boost::system::error_code failure) {
                         const std::shared_ptr<WorkerProcess> self = weak.lock();
                         if (self && !failure) self->send_some();
                       });
      return;
    }
    if (status.code() == StatusCode::kResourceExhausted) {
      // Too many descriptors of this user under way, or no memory: neither is the worker's doing,
      // and a socket that can be written to does not say when it is over.
      send_timer_.expires_after(kSendRetry);
      send_timer_.async_wait([weak = weak_from_this()](boost::system::error_code failure) {
        const std::shared_ptr<WorkerProcess> self = weak.lock();
        if (self && !failure) self->send_some();
      });
      return;
    }
    queue_.pop_front();
    if (status.ok()) continue;
    // Its end of the link is gone: usually it is dying already, and the pidfd tells how.
    if (status.code() == StatusCode::kUnavailable) return kill("", false);
    return kill("cannot be written to: " + status.message(), true);
  }
}

void WorkerProcess::watch_answers() {
  // Questions are in the order in which they were asked: the first with a limit is due first.
  const auto first = std::find_if(questions_.begin(), questions_.end(), [](const auto& question) {
    return question.second.due != Clock::time_point::max();
  });
  is_watching_answers_ = first != questions_.end() && alive_;
  if (!is_watching_answers_) return;
  if (first->second.due <= Clock::now()) {
    return kill("was killed, since it left a question unanswered for " +
                    std::to_string(answer_timeout_.count()) + " ms",
                true);
  }
  answer_timer_.expires_at(first->second.due);
  answer_timer_.async_wait([weak = weak_from_this()](boost::system::error_code failure) {
    const std::shared_ptr<WorkerProcess> self = weak.lock();
    if (self && !failure) self->watch_answers();
  });
}

void WorkerProcess::wait_readable() {
  link_.async_wait(asio::posix::stream_descriptor::wait_read,
                   [weak = weak_from_this()](boost::system::error_code failure) {
                     const std::shared_ptr<WorkerProcess> self = weak.lock();
                     if (self && !failure) self->receive_some(false);
                   });
}

void WorkerProcess::wait_dead() {
  pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [weak = weak_from_this()](boost::system::error_code failure) {
                      const std::shared_ptr<WorkerProcess> self = weak.lock();
                      if (self && !failure) self->reap();
                    });
}

void WorkerProcess::receive_some(bool until_empty) {
  for (int i = 0; (until_empty || i < kMessagesPerTurn) && link_.is_open(); ++i) {
    const Result<ReceivedMessage> message = receive_message(link_.native_handle(), 0);
    if (!message) {
      if (message.error().code() == StatusCode::kWouldBlock) break;
      // At its end nothing is to be expected of it; usually it is dying already, and the pidfd
      // tells how. An error of the system is nobody's fault.
      const bool ended = message.error().code() == StatusCode::kUnavailable;
      const bool is_its_fault = message.error().code() == StatusCode::kInvalidArgument;
      close_link();
      if (alive_) {
        kill(ended ? "" : (is_its_fault ? "broke the protocol: " : "") + message.error().message(),
             !ended && !is_its_fault);
      }
      return;
    }
    if (!handle(message->bytes)) return;
  }
  if (link_.is_open() && !until_empty) wait_readable();
}

bool WorkerProcess::handle(const std::vector<std::byte>& bytes) {
  flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (!link::VerifyMessageBuffer(verifier) || link::GetMessage(bytes.data())->body() == nullptr) {
    close_link();
    kill("broke the protocol: a message does not verify", false);
    return false;
  }
  const link::Message& message = *link::GetMessage(bytes.data());
  if (const link::Ready* ready = message.body_as_Ready()) {
    if (!ready_) {
      ready_ = true;
      if (ready->library_version() != nullptr) library_version_ = ready->library_version()->str();
      callbacks_.on_ready();
    }
    return true;
  }
  const auto found = questions_.find(message.request_id());
  if (found == questions_.end()) {
    callbacks_.on_event(message);
    return true;
  }
  const Answer answer = std::move(found->second.answer);
  questions_.erase(found);
  answer(&message);
  return true;
}

void WorkerProcess::kill(std::string reason, bool by_supervisor) {
  if (!alive_) return;
  if (kill_reason_.empty()) kill_reason_ = std::move(reason);
  killed_by_supervisor_ = killed_by_supervisor_ || by_supervisor;
  ::kill(pid_, SIGKILL);
}

void WorkerProcess::close_link() {
  boost::system::error_code ignored;
  if (link_.is_open()) link_.close(ignored);
  queue_.clear();
}

void WorkerProcess::reap() {
  const std::shared_ptr<WorkerProcess> self = shared_from_this();  // callbacks may drop us
  // While the leader is a zombie its number cannot be another group's.
  ::kill(-pid_, SIGKILL);
  siginfo_t info{};
  int waited = 0;
  do {
    waited = ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_.native_handle()),
                      &info, WEXITED);
  } while (waited != 0 && errno == EINTR);
  if (waited != 0) {
    spdlog::critical("cannot reap worker process {}: {}", pid_,
                     status_from_errno("wait", errno).message());
    std::abort();  // going on could leave two incarnations alive
  }
  alive_ = false;
  boost::system::error_code ignored;
  pidfd_.close(ignored);
  receive_some(true);
  close_link();
  WorkerDeath death;
  death.cause = kill_reason_.empty() ? describe_exit(info.si_code, info.si_status) : kill_reason_;
  death.by_supervisor = killed_by_supervisor_;
  read_status_page(status_page(), death);
  if (blamed_executor_) blame(*blamed_executor_, death);
  callbacks_.on_death(death);
  answer_timer_.cancel();
  std::map<std::uint64_t, Question> unanswered;
  unanswered.swap(questions_);
  for (const auto& [request_id, question] : unanswered) question.answer(nullptr);
}

}  // namespace bucketd::supervisor
