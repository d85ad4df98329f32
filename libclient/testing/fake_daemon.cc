#include "libclient/testing/fake_daemon.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>

#include "common/message_socket.h"
#include "common/wire/model_wire.h"

namespace bucketd::testing {
namespace {

using flatbuffers::FlatBufferBuilder;

constexpr std::chrono::seconds kPatience{30};

std::string make_directory() {
  std::string path = "/tmp/bucketd-fake-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) std::abort();
  return path;
}

}  // namespace

FakeDaemon::FakeDaemon(FakeDaemonOptions options)
    : options_(options), directory_(make_directory()), socket_path_(directory_ + "/socket") {
  models_["echo"] = echo_model();
}

FakeDaemon::~FakeDaemon() {
  stop();
  ::rmdir(directory_.c_str());
}

void FakeDaemon::start() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), 64) != 0) {
    std::abort();
  }
  {
    const std::lock_guard lock(mutex_);
    ++incarnation_;
    ++daemon_incarnation_;
  }
  acceptor_ = std::thread([this, fd = listener_.get()] { accept_connections(fd); });
}

void FakeDaemon::stop() {
  if (!listener_) return;
  ::unlink(socket_path_.c_str());
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  listener_.reset();
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<std::unique_ptr<FakeChannel>> channels;
  std::vector<std::unique_ptr<FakeStreamLane>> streams;
  {
    const std::lock_guard lock(mutex_);
    connections.swap(connections_);
    channels.swap(dead_channels_);
    streams.swap(dead_streams_);
    held_.clear();
    plans_.clear();
    sessions_.forget_all();
    for (const auto& connection : connections) ::shutdown(connection->socket.get(), SHUT_RDWR);
  }
  // Their threads need the mutex.
  for (const auto& connection : connections) {
    connection->thread.join();
    connection->channel.reset();
    connection->streams.clear();
  }
}

void FakeDaemon::end_connections() {
  const std::lock_guard lock(mutex_);
  for (const auto& connection : connections_) {
    sessions_.connection_ended(connection->number);
    ::shutdown(connection->socket.get(), SHUT_RDWR);
  }
}

void FakeDaemon::accept_connections(int listener) {
  while (true) {
    UniqueFd accepted(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!accepted) return;
    const std::lock_guard lock(mutex_);
    Connection& connection = *connections_.emplace_back(std::make_unique<Connection>());
    connection.socket = std::move(accepted);
    connection.number = next_connection_++;
    connection.thread = std::thread([this, &connection] { serve(connection); });
  }
}

void FakeDaemon::serve(Connection& connection) {
  while (true) {
    pollfd fd{connection.socket.get(), POLLIN, 0};
    ::poll(&fd, 1, -1);
    const Result<ReceivedMessage> received = receive_message(connection.socket.get(), 0);
    if (!received && received.error().code() == StatusCode::kWouldBlock) continue;
    const std::lock_guard lock(mutex_);
    if (!received) {
      connection.has_ended = true;
      sessions_.connection_ended(connection.number);
      changed_.notify_all();
      return;
    }
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(received->bytes.data()),
                                   received->bytes.size());
    if (!wire::VerifyMessageBuffer(verifier)) std::abort();
    handle_locked(connection, *wire::GetMessage(received->bytes.data()));
    changed_.notify_all();
  }
}

void FakeDaemon::take(FakeLane& lane, Submission submission) {
  const std::lock_guard lock(mutex_);
  submissions_.push_back(submission.entry);
  changed_.notify_all();
  if (plans_.count(&lane) == 0) return;  // of a worker that died meanwhile
  if (is_holding_) {
    held_.push_back({&lane, std::move(submission)});
  } else {
    answer_locked(lane, submission);
  }
}

void FakeDaemon::answer_locked(FakeLane& lane, const Submission& submission) {
  const std::uint64_t session = submission.entry.session_handle;
  if (session != 0 && session != default_session_) {
    const Status status = sessions_.execute(lane.connection, session, submission);
    if (!status.ok()) return lane.publish(refusal(submission, status));
  }
  auto& signatures = plans_[&lane].signatures;
  const std::vector<TensorSignature> signature = signature_of(submission);
  auto known = std::find(signatures.begin(), signatures.end(), signature);
  if (known == signatures.end()) known = signatures.insert(known, signature);
  Answer answer = echo(models_[lane.model], submission,
                       static_cast<std::uint32_t>(known - signatures.begin()) + 1);
  if (spoil_) spoil_(answer);
  lane.publish(answer);
}

void FakeDaemon::add_model(const ModelDescription& model) {
  const std::lock_guard lock(mutex_);
  models_[model.name] = model;
}

void FakeDaemon::hold_answers() {
  const std::lock_guard lock(mutex_);
  is_holding_ = true;
}

void FakeDaemon::release_answers(bool newest_first) {
  const std::lock_guard lock(mutex_);
  is_holding_ = false;
  if (newest_first) std::reverse(held_.begin(), held_.end());
  for (const Held& held : std::exchange(held_, {})) answer_locked(*held.lane, held.submission);
}

void FakeDaemon::release_one_answer() {
  const std::lock_guard lock(mutex_);
  const Held held = std::move(held_.at(0));
  held_.erase(held_.begin());
  answer_locked(*held.lane, held.submission);
}

void FakeDaemon::spoil_answers(std::function<void(Answer&)> spoil) {
  const std::lock_guard lock(mutex_);
  spoil_ = std::move(spoil);
}

void FakeDaemon::publish_nonsense() {
  const std::lock_guard lock(mutex_);
  for (const auto& [lane, plans] : plans_) lane->publish_nonsense();
}

void FakeDaemon::kill_worker(Executing executing) { end_channels(executing, /*is_silent=*/false); }

void FakeDaemon::kill_worker_silently() { end_channels(Executing::kNothing, /*is_silent=*/true); }

void FakeDaemon::end_channels(Executing executing, bool is_silent) {
  std::vector<std::unique_ptr<FakeChannel>> channels;
  std::vector<std::unique_ptr<FakeStreamLane>> streams;
  std::vector<std::pair<Connection*, std::uint64_t>> ended;
  std::vector<Held> held;
  {
    const std::lock_guard lock(mutex_);
    ++incarnation_;
    plans_.clear();
    held = std::exchange(held_, {});
    std::vector<std::uint64_t> executing_sessions;
    for (const Held& one : held) {
      if (executing == Executing::kNothing) break;
      executing_sessions.push_back(one.submission.entry.session_handle);
      if (executing == Executing::kFirst) break;
    }
    sessions_.worker_died(executing_sessions);
    for (const auto& connection : connections_) {
      if (connection->channel != nullptr) {
        ended.emplace_back(connection.get(), connection->channel->id);
        channels.push_back(std::move(connection->channel));
      }
      for (auto& stream : connection->streams) {
        ended.emplace_back(connection.get(), stream->channel_id);
        streams.push_back(std::move(stream));
      }
      connection->streams.clear();
    }
  }
  // Their threads may wait for the mutex.
  for (const auto& channel : channels) channel->close();
  for (const auto& stream : streams) stream->close();
  const std::lock_guard lock(mutex_);
  if (!is_silent) {
    for (const auto& [connection, ended_id] : ended) {
      send_locked(*connection, 0, [&, channel_id = ended_id](FlatBufferBuilder& builder) -> Body {
        std::vector<wire::ExecutingRequest> executing_requests;
        for (const Held& one : held) {
          const bool is_it = executing == Executing::kAll ||
                             (executing == Executing::kFirst && executing_requests.empty());
          if (one.lane->channel_id == channel_id && is_it) {
            executing_requests.emplace_back(one.submission.entry.user_data, one.lane->lane_id);
          }
        }
        const auto status =
            wire::to_wire(builder, Status(StatusCode::kAborted, "worker 0 was killed by SIGSEGV"));
        const auto wire_executing = builder.CreateVectorOfStructs(executing_requests);
        return {wire::Body::ChannelClosed,
                wire::CreateChannelClosed(builder, channel_id, status, wire_executing).Union()};
      });
    }
  }
  for (auto& channel : channels) dead_channels_.push_back(std::move(channel));
  for (auto& stream : streams) dead_streams_.push_back(std::move(stream));
}

void FakeDaemon::unload_model(const std::string& model) {
  const std::lock_guard lock(mutex_);
  models_.erase(model);
  std::vector<FakeLane*> lanes;
  for (const auto& [lane, plans] : plans_) {
    if (lane->model == model) lanes.push_back(lane);
  }
  for (FakeLane* lane : lanes) {
    lane->close();
    plans_.erase(lane);
    for (const auto& connection : connections_) {
      send_locked(*connection, 0, [&](FlatBufferBuilder& builder) -> Body {
        const auto status = wire::to_wire(
            builder, Status(StatusCode::kUnavailable, "model '" + model + "' was unloaded"));
        return {wire::Body::LaneClosed,
                wire::CreateLaneClosed(builder, lane->channel_id, lane->lane_id, status).Union()};
      });
    }
  }
}

void FakeDaemon::refuse_lanes(std::optional<Status> status) {
  const std::lock_guard lock(mutex_);
  lane_refusal_ = std::move(status);
}

void FakeDaemon::spoil_lanes(LaneFault fault) {
  const std::lock_guard lock(mutex_);
  lane_fault_ = fault;
}

void FakeDaemon::answer_late_lanes() {
  const std::lock_guard lock(mutex_);
  lane_fault_ = LaneFault::kNone;
  for (const auto& answer : std::exchange(late_lanes_, {})) answer();
}

void FakeDaemon::stop_answering_control(bool hello_too) {
  const std::lock_guard lock(mutex_);
  answers_hello_ = !hello_too;
  answers_control_ = false;
}

void FakeDaemon::wait_locked(std::unique_lock<std::mutex>& lock,
                             const std::function<bool()>& done) {
  if (changed_.wait_for(lock, kPatience, done)) return;
  std::cerr << "what the test waits for does not come\n";
  std::abort();
}

void FakeDaemon::wait_for_submissions(std::size_t count) {
  std::unique_lock lock(mutex_);
  wait_locked(lock, [&] { return submissions_.size() >= count; });
}

void FakeDaemon::wait_for_closed_lanes(std::size_t count) {
  std::unique_lock lock(mutex_);
  wait_locked(lock, [&] { return closed_lanes_ >= count; });
}

void FakeDaemon::wait_for_connections_to_end() {
  std::unique_lock lock(mutex_);
  wait_locked(lock, [&] {
    return std::ranges::all_of(connections_, [](const auto& one) { return one->has_ended; });
  });
}

std::vector<SubmissionEntry> FakeDaemon::submissions() const {
  const std::lock_guard lock(mutex_);
  return submissions_;
}

std::size_t FakeDaemon::opened_lanes() const {
  const std::lock_guard lock(mutex_);
  return opened_lanes_;
}

std::size_t FakeDaemon::connection_count() const {
  const std::lock_guard lock(mutex_);
  return connections_.size();
}

}  // namespace bucketd::testing
