// WorkerProcess: one incarnation of a worker (or a probe): the process, its link, its status page.
//
// It is started by fork and exec with its link as descriptor 3 and nothing else inherited but
// stderr, in a process group of its own, and is killed by the kernel if the supervisor dies. It is
// over when its pidfd says so: then, in this order, its process group is killed, it is reaped, the
// messages that it had sent are handled, `on_death` is called once, and every unanswered question
// is answered with null.
//
// Owned by a WorkerSlot or by a probe under way; destroying it kills and reaps the process at once.
//
// Thread safety: none; the supervisor's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/status.h"
#include "common/fd.h"
#include "common/memfd.h"
#include "daemon/supervisor/asio.h"
#include "daemon/supervisor/configuration.h"
#include "daemon/supervisor/worker_death.h"
#include "worker_generated.h"

namespace bucketd::supervisor {

struct WorkerLaunch {
  std::string executable;
  std::uint32_t worker_id = 0;
  std::uint64_t incarnation = 0;
  link::WorkerMode mode = link::WorkerMode::kServe;
  WorkerConfiguration worker;
  WakeupConfiguration wakeup;
  std::string log_level;
  // Within this it answers what needs no request to end first, or is killed.
  std::chrono::milliseconds answer_timeout{0};
};

// When the answer to a question is due.
enum class Due {
  kPromptly,      // within WorkerLaunch::answer_timeout
  kWithoutLimit,  // requests have to end first, or the asker has a limit of its own
};

class WorkerProcess : public std::enable_shared_from_this<WorkerProcess> {
 public:
  // The answer to one question, valid during the call; null when the worker died first.
  using Answer = std::function<void(const link::Message*)>;
  // `request_id` 0, or one that nobody asked under: Violation, and lanes that ended by themselves.
  using Event = std::function<void(const link::Message&)>;
  using Ready = std::function<void()>;
  using Death = std::function<void(const WorkerDeath&)>;
  struct Callbacks {
    Ready on_ready;
    Event on_event;
    Death on_death;
  };

  // Starts the process and sends Configure. Errors: what prevented it (executable, memory,
  // processes). Callbacks come from the io_context, never from here.
  static Result<std::shared_ptr<WorkerProcess>> start(asio::io_context& context,
                                                      const WorkerLaunch& launch,
                                                      Callbacks callbacks);
  ~WorkerProcess();

  pid_t pid() const { return pid_; }
  std::uint64_t incarnation() const { return incarnation_; }
  bool is_ready() const { return ready_; }
  bool is_alive() const { return alive_; }
  const std::string& library_version() const { return library_version_; }
  // The worker writes it at any time; see worker_status.h.
  const WorkerStatus& status_page() const;
  // Questions that wait for an answer; the broker refuses work beyond a bound.
  std::size_t unanswered() const { return questions_.size(); }

  // Sends a message: `make` builds its body with the builder that it gets.
  //   process.ask([&](auto& builder) { return link::CreateUnloadModel(builder, id); }, {}, answer);
  // `fds` are closed once they were sent. Without `answer` none is expected.
  template <typename Make>
  void ask(Make make, std::vector<UniqueFd> fds, Answer answer, Due due = Due::kWithoutLimit) {
    flatbuffers::FlatBufferBuilder builder;
    const auto body = make(builder);
    using Body = typename std::remove_cvref_t<decltype(body)>;
    send(builder, link::BodyTraits<TableOf<Body>>::enum_value, body.Union(), std::move(fds),
         std::move(answer), due);
  }

  // SIGKILL. `reason` completes "worker 0 ..." and replaces the signal in the death's cause;
  // `by_supervisor`: nobody is to be charged.
  void kill(std::string reason, bool by_supervisor);
  // Marks requests that WorkerDeath then names as culprits, whatever else was executing.
  void blame_executor(std::uint32_t executor) { blamed_executor_ = executor; }
  // Ends the link: a well-behaved worker exits.
  void close_link();

 private:
  template <typename T>
  struct TableOfImpl;
  template <typename T>
  struct TableOfImpl<flatbuffers::Offset<T>> {
    using type = T;
  };
  template <typename T>
  using TableOf = typename TableOfImpl<T>::type;

  struct Outgoing {
    std::vector<std::byte> bytes;
    std::vector<UniqueFd> fds;
  };

  WorkerProcess(asio::io_context& context, const WorkerLaunch& launch, Callbacks callbacks,
                pid_t pid, UniqueFd pidfd, UniqueFd link, MappedRegion page);
  void send_configure(const WorkerLaunch& launch, UniqueFd page);
  void send(flatbuffers::FlatBufferBuilder& builder, link::Body type,
            flatbuffers::Offset<void> body, std::vector<UniqueFd> fds, Answer answer, Due due);
  void send_some();
  void watch_answers();
  void wait_readable();
  void wait_dead();
  void receive_some(bool until_empty);
  bool handle(const std::vector<std::byte>& bytes);
  void reap();

  Callbacks callbacks_;
  const std::uint64_t incarnation_;
  const pid_t pid_;
  asio::posix::stream_descriptor pidfd_;
  asio::posix::stream_descriptor link_;
  MappedRegion page_;
  bool alive_ = true;
  bool ready_ = false;
  std::string library_version_;
  std::string kill_reason_;
  bool killed_by_supervisor_ = false;
  std::optional<std::uint32_t> blamed_executor_;
  std::deque<Outgoing> queue_;
  std::uint64_t next_request_id_ = 1;
  struct Question {
    Answer answer;
    Clock::time_point due;  // the end of time if there is no limit
  };
  const std::chrono::milliseconds answer_timeout_;
  asio::steady_timer answer_timer_;
  bool is_watching_answers_ = false;
  asio::steady_timer send_timer_;
  std::map<std::uint64_t, Question> questions_;
};

}  // namespace bucketd::supervisor
