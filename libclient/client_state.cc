#include "libclient/client_state.h"

#include <errno.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "common/wire/model_wire.h"
#include "libclient/backoff.h"
#include "libclient/model_lane.h"
#include "libclient/ring_channel.h"
#include "libclient/stream_channel.h"

namespace bucketd::internal {
namespace {

using Clock = std::chrono::steady_clock;
using flatbuffers::FlatBufferBuilder;

std::string socket_path(const ClientOptions& options) {
  if (!options.socket_path.empty()) return options.socket_path;
  const char* from_environment = std::getenv("BUCKETD_SOCKET");
  if (from_environment != nullptr && *from_environment != '\0') return from_environment;
  return kDefaultSocketPath;
}

}  // namespace

std::uint32_t milliseconds_until(TimePoint deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(left, 0, std::numeric_limits<std::uint32_t>::max()));
}

ClientState::ClientState(const ClientOptions& options)
    : options_(options),
      connection_options_{socket_path(options),
                          options.name.empty() ? program_invocation_short_name : options.name,
                          options.transport, std::chrono::microseconds(options.spin_us)} {}

ClientState::~ClientState() = default;

TimePoint ClientState::default_deadline() const {
  return Clock::now() + options_.reconnect_timeout;
}

Result<std::shared_ptr<ControlConnection>> ClientState::connection(TimePoint deadline) {
  ProcessState& process = process_.get();
  std::unique_lock lock(process.mutex);
  while (true) {
    if (process.connection != nullptr && !process.connection->has_ended()) {
      return process.connection;
    }
    if (!process.is_connecting) break;
    if (process.changed.wait_until(lock, deadline) == std::cv_status::timeout) {
      return error(StatusCode::kUnavailable, "the daemon is away: no connection was made in time");
    }
  }
  process.is_connecting = true;
  std::shared_ptr<ControlConnection> last = std::exchange(process.connection, nullptr);
  lock.unlock();
  last.reset();  // its end takes mutexes of its own
  Result<std::shared_ptr<ControlConnection>> made = connect(deadline);
  lock.lock();
  process.is_connecting = false;
  if (made) {
    process.connection = *made;
    const std::shared_ptr<PollSet> poll_set = poll_set_locked(process);
    if (poll_set != nullptr) (*made)->enable_poll(poll_set);
  }
  process.changed.notify_all();
  return made;
}

Result<std::shared_ptr<ControlConnection>> ClientState::connect(TimePoint deadline) {
  Backoff backoff;
  while (true) {
    Result<std::shared_ptr<ControlConnection>> connection = ControlConnection::connect(
        connection_options_, std::max(deadline, Clock::now() + kAnswerTime));
    if (connection || connection.error().code() != StatusCode::kUnavailable) return connection;
    if (!backoff.wait(deadline)) return connection;
  }
}

Result<Answer> ClientState::ask(const ControlConnection::Compose& compose, wire::Body expected,
                                TimePoint deadline) {
  Backoff backoff;
  while (true) {
    Result<std::shared_ptr<ControlConnection>> control = connection(deadline);
    if (!control) return error(control.error());
    Result<Answer> answer = (*control)->call(compose, expected, deadline);
    const bool lost = !answer && (*control)->has_ended();
    if (!lost || !backoff.wait(deadline)) return answer;
  }
}

Result<std::shared_ptr<Lane>> ClientState::open_lane(const std::string& model, TimePoint deadline) {
  // A deadline that has passed asks for what is possible at once, which is still an answer.
  const TimePoint answer_deadline = std::max(deadline, Clock::now()) + kAnswerTime;
  const auto open = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto name = builder.CreateString(model);
    const auto transport = options_.transport == Transport::kStream ? wire::Transport::kStream
                                                                    : wire::Transport::kRing;
    return {wire::Body::OpenLane, wire::CreateOpenLane(builder, name, transport, options_.slots,
                                                       milliseconds_until(deadline))
                                      .Union()};
  };
  Backoff backoff;
  while (true) {
    Result<std::shared_ptr<ControlConnection>> control = connection(deadline);
    if (!control) return error(control.error());
    Result<Answer> answer = (*control)->call(open, wire::Body::LaneOpened, answer_deadline);
    if (answer) {
      const std::uint64_t channel_id = answer->message().body_as_LaneOpened()->channel_id();
      const std::uint32_t lane_id = answer->message().body_as_LaneOpened()->lane_id();
      Result<std::shared_ptr<Lane>> lane = make_lane(std::move(*answer), *control);
      // The daemon would keep for us what we cannot use.
      if (!lane) (*control)->lane_is_over(channel_id, lane_id, /*daemon_knows=*/false);
      return lane;
    }
    if (!(*control)->has_ended() || !backoff.wait(deadline)) return error(answer.error());
  }
}

Result<std::shared_ptr<Lane>> ClientState::make_lane(
    Answer answer, const std::shared_ptr<ControlConnection>& connection) {
  const wire::LaneOpened& opened = *answer.message().body_as_LaneOpened();
  Result<LaneLayout> layout = wire::from_wire(opened.layout());
  if (!layout) return error(StatusCode::kInternal, layout.error().message());
  if (opened.model() == nullptr) {
    return error(StatusCode::kInternal, "the daemon opened a lane without describing its model");
  }
  Result<ModelDescription> description = wire::from_wire(*opened.model());
  if (!description) return error(StatusCode::kInternal, description.error().message());
  LaneTerms terms{opened.channel_id(),
                  opened.lane_id(),
                  opened.worker_incarnation(),
                  *layout,
                  opened.max_request_bytes(),
                  opened.default_session_handle(),
                  std::make_shared<const ModelDescription>(std::move(*description))};
  if (opened.transport() == wire::Transport::kStream) {
    auto lane = std::make_shared<StreamLane>(std::move(terms), answer.channel, connection);
    lane->channel().add_lane(*lane);
    return lane;
  }
  Result<std::shared_ptr<RingLane>> lane =
      RingLane::open(std::move(terms), answer.fds, answer.channel, connection);
  if (!lane) return error(lane.error());
  return std::shared_ptr<Lane>(std::move(*lane));
}

std::shared_ptr<ModelLane> ClientState::model_lane(const std::string& model,
                                                   std::shared_ptr<Lane> lane) {
  ProcessState& process = process_.get();
  const std::lock_guard lock(process.mutex);
  std::weak_ptr<ModelLane>& known = process.models[model];
  if (auto existing = known.lock()) return existing;
  auto made = std::make_shared<ModelLane>(shared_from_this(), model, std::move(lane));
  known = made;
  made->adopt_lane();
  return made;
}

std::shared_ptr<ModelLane> ClientState::find_model_lane(const std::string& model) {
  ProcessState& process = process_.get();
  const std::lock_guard lock(process.mutex);
  const auto found = process.models.find(model);
  return found == process.models.end() ? nullptr : found->second.lock();
}

bool ClientState::enter_session(const std::string& id) {
  ProcessState& process = process_.get();
  const std::lock_guard lock(process.mutex);
  return process.sessions.insert(id).second;
}

void ClientState::leave_session(const std::string& id) {
  ProcessState& process = process_.get();
  const std::lock_guard lock(process.mutex);
  process.sessions.erase(id);
}

// The set to poll, if one was asked for in this process or in the one that it was forked from.
std::shared_ptr<PollSet> ClientState::poll_set_locked(ProcessState& process) {
  const int number = poll_number_.load(std::memory_order_acquire);
  if (process.poll_set == nullptr && number >= 0) {
    Result<std::shared_ptr<PollSet>> inherited = PollSet::create(number);
    if (inherited) process.poll_set = std::move(*inherited);
  }
  return process.poll_set;
}

int ClientState::poll_fd() {
  ProcessState& process = process_.get();
  std::shared_ptr<ControlConnection> connection;
  std::shared_ptr<PollSet> poll_set;
  {
    const std::lock_guard lock(process.mutex);
    poll_set = poll_set_locked(process);
    if (poll_set == nullptr) {
      Result<std::shared_ptr<PollSet>> made = PollSet::create();
      if (!made) return -1;
      poll_set = process.poll_set = std::move(*made);
      poll_number_.store(poll_set->fd(), std::memory_order_release);
    }
    connection = process.connection;
  }
  if (connection != nullptr) connection->enable_poll(poll_set);
  return poll_set->fd();
}

void ClientState::dispatch() {
  ProcessState& process = process_.get();
  std::shared_ptr<ControlConnection> connection;
  {
    const std::lock_guard lock(process.mutex);
    // Before the look at what raised it: what comes after raises it again.
    if (const auto poll_set = poll_set_locked(process)) poll_set->lower();
    connection = process.connection;
  }
  if (connection != nullptr) connection->dispatch();
}

}  // namespace bucketd::internal
