// The fake daemon's answers on control connections.
#include <sys/socket.h>

#include <cstdlib>
#include <utility>

#include "common/message_socket.h"
#include "common/wire/model_wire.h"
#include "libclient/testing/fake_daemon.h"

namespace bucketd::testing {

using flatbuffers::FlatBufferBuilder;

void FakeDaemon::send_locked(Connection& connection, std::uint64_t id, const Compose& compose,
                             const std::vector<UniqueFd>& fds) {
  FlatBufferBuilder builder;
  const Body body = compose(builder);
  builder.Finish(wire::CreateMessage(builder, id, body.first, body.second));
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  // A client that is gone already hears nothing.
  [[maybe_unused]] const Status sent = send_message(
      connection.socket.get(),
      std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())), numbers);
}

void FakeDaemon::refuse_locked(Connection& connection, std::uint64_t id, const Status& status) {
  send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
    const auto wire_status = wire::to_wire(builder, status);
    return {wire::Body::Error, wire::CreateError(builder, wire_status).Union()};
  });
}

void FakeDaemon::handle_locked(Connection& connection, const wire::Message& message) {
  const std::uint64_t id = message.request_id();
  const auto answer_ok = [&] {
    send_locked(connection, id, [](FlatBufferBuilder& builder) -> Body {
      return {wire::Body::Ok, wire::CreateOk(builder).Union()};
    });
  };
  const auto summaries = [this](FlatBufferBuilder& builder) {
    std::vector<flatbuffers::Offset<wire::ModelSummary>> models;
    for (const auto& [name, model] : models_) {
      const auto wire_name = builder.CreateString(name);
      const auto reason = builder.CreateString("");
      models.push_back(
          wire::CreateModelSummary(builder, wire_name, wire::ModelState::kReady, reason, 0,
                                   static_cast<std::uint32_t>(model.buckets.size()), 1));
    }
    return builder.CreateVector(models);
  };
  if (const wire::Hello* hello = message.body_as_Hello()) {
    if (!answers_hello_) return;
    if (hello->major() != options_.protocol_major) {
      return refuse_locked(
          connection, id,
          Status(StatusCode::kFailedPrecondition,
                 "the daemon speaks protocol version " + std::to_string(options_.protocol_major) +
                     ", the client version " + std::to_string(hello->major())));
    }
    return send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
      const auto version = builder.CreateString("fake");
      return {wire::Body::Welcome,
              wire::CreateWelcome(builder, options_.protocol_major, kProtocolMinor,
                                  options_.features, version, daemon_incarnation_, true)
                  .Union()};
    });
  }
  if (!answers_control_) return;
  if (const wire::OpenLane* open = message.body_as_OpenLane()) {
    return open_lane_locked(connection, id, open->model()->str(), open->transport());
  }
  if (message.body_as_CloseLane() != nullptr) {
    ++closed_lanes_;
    return answer_ok();
  }
  if (handle_session_locked(connection, message)) return;
  if (message.body_as_ListModels() != nullptr) {
    return send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
      const auto models = summaries(builder);
      return {wire::Body::ModelList, wire::CreateModelList(builder, models).Union()};
    });
  }
  if (const wire::DescribeModel* describe = message.body_as_DescribeModel()) {
    const auto found = models_.find(describe->model()->str());
    if (found == models_.end()) {
      return refuse_locked(connection, id, Status(StatusCode::kNotFound, "no such model"));
    }
    return send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
      const auto model = wire::to_wire(builder, found->second);
      return {wire::Body::Described, wire::CreateDescribed(builder, model).Union()};
    });
  }
  if (message.body_as_GetStatus() != nullptr) {
    return send_locked(connection, id, [&](FlatBufferBuilder& builder) -> Body {
      const auto version = builder.CreateString("fake");
      const auto death = builder.CreateString("killed by SIGSEGV");
      std::vector<flatbuffers::Offset<wire::WorkerReport>> workers{
          wire::CreateWorkerReport(builder, 0, 1234, wire::WorkerState::kServing, incarnation_, 1,
                                   0, 2, 10, 3, death, 4096, 512)};
      const auto wire_workers = builder.CreateVector(workers);
      const auto models = summaries(builder);
      return {wire::Body::StatusReport,
              wire::CreateStatusReport(builder, version, 99, 4567, 1, 1, 1, 0, wire_workers, models)
                  .Union()};
    });
  }
  if (const wire::LoadModel* load = message.body_as_LoadModel()) {
    const std::string name = load->name()->str();
    models_[name] = echo_model(name);
    return answer_ok();
  }
  if (const wire::UnloadModel* unload = message.body_as_UnloadModel()) {
    if (models_.erase(unload->model()->str()) > 0) return answer_ok();
    return refuse_locked(connection, id, Status(StatusCode::kNotFound, "no such model"));
  }
  refuse_locked(connection, id, Status(StatusCode::kUnimplemented, "not in the fake daemon"));
}

void FakeDaemon::open_lane_locked(Connection& connection, std::uint64_t id,
                                  const std::string& model, wire::Transport transport) {
  if (lane_fault_ == LaneFault::kLate) {
    late_lanes_.emplace_back([this, &connection, id, model, transport] {
      open_lane_locked(connection, id, model, transport);
    });
    return;
  }
  if (lane_fault_ == LaneFault::kHangUp) {
    ::shutdown(connection.socket.get(), SHUT_RDWR);
    return;
  }
  const auto found = models_.find(model);
  if (lane_refusal_) return refuse_locked(connection, id, *lane_refusal_);
  if (found == models_.end()) {
    return refuse_locked(connection, id,
                         Status(StatusCode::kNotFound, "no model named '" + model + "'"));
  }
  ++opened_lanes_;
  const LaneLayout layout =
      *make_lane_layout(options_.slots, options_.slot_bytes, options_.slot_bytes);
  const auto take_submission = [this](FakeLane& lane, Submission submission) {
    take(lane, std::move(submission));
  };
  std::vector<UniqueFd> fds;
  FakeLane* lane = nullptr;
  bool is_new_channel = false;
  if (transport == wire::Transport::kStream) {
    auto stream = std::make_unique<FakeStreamLane>(take_submission, fds.emplace_back());
    stream->channel_id = next_channel_++;
    stream->lane_id = next_lane_++;
    lane = stream.get();
    connection.streams.push_back(std::move(stream));
  } else {
    is_new_channel = connection.channel == nullptr;
    if (is_new_channel) {
      connection.channel = std::make_unique<FakeChannel>(next_channel_++, incarnation_,
                                                         options_.wakeup, take_submission);
      fds = connection.channel->take_client_fds();
    }
    lane = connection.channel->add_lane(next_lane_++, layout, fds);
  }
  lane->model = found->first;
  lane->connection = connection.number;
  plans_[lane] = {};
  send_locked(
      connection, id,
      [&](FlatBufferBuilder& builder) -> Body {
        const auto description = wire::to_wire(builder, found->second);
        LaneLayout told = layout;
        if (lane_fault_ == LaneFault::kBadLayout) told.slot_count = 3;  // no power of two
        const wire::LaneLayout wire_layout = wire::to_wire(told);
        return {wire::Body::LaneOpened,
                wire::CreateLaneOpened(builder, lane->channel_id, lane->lane_id, is_new_channel,
                                       transport, incarnation_, &wire_layout, options_.slot_bytes,
                                       description, default_session_)
                    .Union()};
      },
      fds);
}

}  // namespace bucketd::testing
