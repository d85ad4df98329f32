#include "bucketd/client.h"

#include <cassert>
#include <utility>

#include "common/wire/model_wire.h"
#include "libclient/client_state.h"
#include "libclient/model_lane.h"
#include "libclient/status_messages.h"

namespace bucketd {

using flatbuffers::FlatBufferBuilder;
using internal::ControlConnection;
using internal::TimePoint;

Client::Client(std::shared_ptr<internal::ClientState> state) : state_(std::move(state)) {}

Result<Client> Client::connect(const ClientOptions& options) {
  auto state = std::make_shared<internal::ClientState>(options);
  const auto connection =
      state->connection(std::chrono::steady_clock::now() + options.connect_timeout);
  if (!connection) return error(connection.error());
  return Client(std::move(state));
}

Result<std::vector<ModelSummary>> Client::models() {
  const auto list = [](FlatBufferBuilder& builder) -> ControlConnection::Body {
    return {wire::Body::ListModels, wire::CreateListModels(builder).Union()};
  };
  const Result<internal::Answer> answer =
      state_->ask(list, wire::Body::ModelList, state_->default_deadline());
  if (!answer) return error(answer.error());
  return internal::read_models(answer->message().body_as_ModelList()->models());
}

Result<ModelDescription> Client::describe(const std::string& model) {
  const auto describe = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto name = builder.CreateString(model);
    return {wire::Body::DescribeModel, wire::CreateDescribeModel(builder, name).Union()};
  };
  const Result<internal::Answer> answer =
      state_->ask(describe, wire::Body::Described, state_->default_deadline());
  if (!answer) return error(answer.error());
  const wire::ModelDescription* described = answer->message().body_as_Described()->model();
  if (described == nullptr) {
    return error(StatusCode::kInternal, "the daemon sent no description of '" + model + "'");
  }
  return wire::from_wire(*described);
}

Result<Model> Client::open(const std::string& model, Deadline deadline) {
  const TimePoint until = deadline.value_or(state_->default_deadline());
  std::shared_ptr<internal::ModelLane> known = state_->find_model_lane(model);
  if (known != nullptr) {
    const auto lane = known->lane(until);
    if (!lane) return error(lane.error());
    return Model(std::move(known));
  }
  Result<std::shared_ptr<internal::Lane>> lane = state_->open_lane(model, until);
  if (!lane) return error(lane.error());
  return Model(state_->model_lane(model, std::move(*lane)));
}

Result<std::vector<SessionSummary>> Client::sessions(bool all_users, bool* is_complete) {
  const auto list = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    return {wire::Body::ListSessions, wire::CreateListSessions(builder, all_users).Union()};
  };
  const Result<internal::Answer> answer =
      state_->ask(list, wire::Body::SessionList, state_->default_deadline());
  if (!answer) return error(answer.error());
  const wire::SessionList& sessions = *answer->message().body_as_SessionList();
  if (is_complete != nullptr) *is_complete = sessions.is_complete();
  return internal::read_sessions(sessions);
}

Status Client::close_session(const std::string& id) {
  const TimePoint until = state_->default_deadline();
  const auto connection = state_->connection(until);
  if (!connection) return connection.error();
  const auto close = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto wire_id = builder.CreateString(id);
    return {wire::Body::CloseSession, wire::CreateCloseSession(builder, wire_id).Union()};
  };
  const Result<internal::Answer> answer = (*connection)->call(close, wire::Body::Ok, until);
  return answer ? Status() : answer.error();
}

namespace {

Status mend(internal::ClientState& state, const std::string& id, wire::SessionOperation operation,
            Deadline deadline) {
  const TimePoint until = deadline.value_or(state.default_deadline());
  const auto connection = state.connection(until);
  if (!connection) return connection.error();
  const auto operate = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto wire_id = builder.CreateString(id);
    return {wire::Body::OperateSession,
            wire::CreateOperateSession(builder, wire_id, operation, 0, -1, /*stays_idle=*/true)
                .Union()};
  };
  const Result<internal::Answer> answer =
      (*connection)->call(operate, wire::Body::SessionOpened, until);
  return answer ? Status() : answer.error();
}

}  // namespace

Status Client::reset_session(const std::string& id, Deadline deadline) {
  return mend(*state_, id, wire::SessionOperation::kReset, deadline);
}

Status Client::restore_session(const std::string& id, Deadline deadline) {
  return mend(*state_, id, wire::SessionOperation::kRestore, deadline);
}

Result<DaemonStatus> Client::status() {
  const auto get_status = [](FlatBufferBuilder& builder) -> ControlConnection::Body {
    return {wire::Body::GetStatus, wire::CreateGetStatus(builder).Union()};
  };
  const Result<internal::Answer> answer =
      state_->ask(get_status, wire::Body::StatusReport, state_->default_deadline());
  if (!answer) return error(answer.error());
  return internal::read_status(*answer->message().body_as_StatusReport());
}

Status Client::load_model(const std::string& path, const std::string& name, Deadline deadline) {
  const TimePoint until = deadline.value_or(state_->default_deadline());
  const auto connection = state_->connection(until);
  if (!connection) return connection.error();
  const auto load = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto wire_path = builder.CreateString(path);
    const auto wire_name = builder.CreateString(name);
    return {wire::Body::LoadModel, wire::CreateLoadModel(builder, wire_path, wire_name,
                                                         internal::milliseconds_until(until))
                                       .Union()};
  };
  // Not asked again on a lost connection: it may have been done.
  const Result<internal::Answer> answer =
      (*connection)->call(load, wire::Body::Ok, until + internal::kAnswerTime);
  return answer ? Status() : answer.error();
}

Status Client::unload_model(const std::string& model) {
  const TimePoint until = state_->default_deadline();
  const auto connection = state_->connection(until);
  if (!connection) return connection.error();
  const auto unload = [&](FlatBufferBuilder& builder) -> ControlConnection::Body {
    const auto name = builder.CreateString(model);
    return {wire::Body::UnloadModel, wire::CreateUnloadModel(builder, name).Union()};
  };
  const Result<internal::Answer> answer = (*connection)->call(unload, wire::Body::Ok, until);
  return answer ? Status() : answer.error();
}

int Client::poll_fd() { return state_->poll_fd(); }

void Client::dispatch() { state_->dispatch(); }

Model::Model(std::shared_ptr<internal::ModelLane> lane) : lane_(std::move(lane)) {}

ModelDescription Model::description() const { return lane_->description(); }

Result<Request> Model::new_request(std::initializer_list<Shape> shapes,
                                   const RequestOptions& options) {
  return new_request(std::span(shapes.begin(), shapes.size()), options);
}

Result<Request> Model::new_request(std::span<const Shape> shapes, const RequestOptions& options) {
  const Result<internal::InFlight*> request = lane_->new_request(shapes, options);
  if (!request) return error(request.error());
  return Request(internal::InFlightHandle(*request));
}

Result<Request> Model::new_unchecked_request(std::span<const TensorSignature> inputs,
                                             const RequestOptions& options) {
  const Result<internal::InFlight*> request =
      lane_->new_request(inputs, /*is_checked=*/false, options);
  if (!request) return error(request.error());
  return Request(internal::InFlightHandle(*request));
}

std::size_t Model::slot_count() const {
  const std::shared_ptr<internal::Lane> lane = lane_->present_lane();
  return lane == nullptr ? 0 : lane->slots.size();
}

std::size_t Model::free_slot_count() const {
  const std::shared_ptr<internal::Lane> lane = lane_->present_lane();
  return lane == nullptr ? 0 : lane->channel().free_slot_count(*lane);
}

}  // namespace bucketd
