#include "tools/bench/daemon_caller.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

// Bits of one, in the low bytes.
std::uint64_t one_bits(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 0x3C00;
    case DType::kBfloat16:
      return 0x3F80;
    case DType::kFloat32:
      return 0x3F800000;
    case DType::kFloat64:
      return 0x3FF0000000000000;
    default:
      return 1;  // little-endian integers and bool
  }
}

// What a caller does with an answer, at least.
void look_at(const Reply& reply) {
  [[maybe_unused]] const volatile std::byte first = *reply.raw_output(0).data;
}

}  // namespace

OnesInputs::OnesInputs(const ModelDescription& model, std::vector<Shape> shapes)
    : shapes_(std::move(shapes)) {
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const DType dtype = model.inputs[i].dtype;
    const std::size_t size = dtype_size_bytes(dtype);
    const std::uint64_t one = one_bits(dtype);
    std::vector<std::byte> data(*shapes_[i].byte_size(dtype));
    for (std::size_t at = 0; at < data.size(); at += size) std::memcpy(&data[at], &one, size);
    memory_.push_back(std::move(data));
    views_.push_back({dtype, shapes_[i], memory_.back().data()});
  }
}

std::vector<Shape> shapes_of(const ModelDescription& model, std::size_t bucket,
                             std::optional<std::int64_t> size) {
  std::vector<Shape> shapes = model.buckets[bucket].inputs;
  for (std::size_t i = 0; size && i < shapes.size(); ++i) {
    for (std::size_t d = 0; d < shapes[i].rank(); ++d) {
      const DimRange& range = model.accepted[i][d];
      if (range.min < range.max) shapes[i][d] = *size;
    }
  }
  return shapes;
}

Result<DaemonCaller> DaemonCaller::make(Model model, std::vector<Shape> shapes) {
  const ModelDescription description = model.description();
  std::optional<Session> session;
  if (!description.states.empty()) {
    Result<Session> opened = model.open_session();
    if (!opened) return error(opened.error());
    session = std::move(*opened);
  }
  OnesInputs inputs(description, std::move(shapes));
  return DaemonCaller(std::move(model), std::move(session), std::move(inputs));
}

Result<Request> DaemonCaller::new_request() {
  return session_ ? session_->new_request(inputs_.shapes()) : model_.new_request(inputs_.shapes());
}

Result<Request> DaemonCaller::filled_request() {
  Result<Request> request = new_request();
  if (!request) return request;
  for (std::size_t i = 0; i < inputs_.memory().size(); ++i) {
    request->raw_input(i).copy_from(inputs_.memory()[i]);
  }
  return request;
}

Result<nanoseconds> DaemonCaller::call() {
  const Clock::time_point started = Clock::now();
  {
    Result<Request> request = filled_request();
    if (!request) return error(request.error());
    const Result<Reply> reply = std::move(*request).run();
    if (!reply) return error(reply.error());
    look_at(*reply);
  }
  return Clock::now() - started;
}

Result<nanoseconds> DaemonCaller::call_generating() {
  const Clock::time_point started = Clock::now();
  {
    Result<Request> request = new_request();
    if (!request) return error(request.error());
    const StridedSpan<float> values = request->input<float>(0);
    std::fill_n(values.data(), values.size(), 1.0F);
    const Result<Reply> reply = std::move(*request).run();
    if (!reply) return error(reply.error());
    look_at(*reply);
  }
  return Clock::now() - started;
}

Result<nanoseconds> DaemonCaller::call_filled() {
  Result<Request> request = filled_request();
  if (!request) return error(request.error());
  const Clock::time_point started = Clock::now();
  {
    const Result<Reply> reply = std::move(*request).run();
    if (!reply) return error(reply.error());
    look_at(*reply);
  }
  return Clock::now() - started;
}

Result<nanoseconds> DaemonCaller::call_pipelined(std::size_t depth) {
  const Clock::time_point started = Clock::now();
  in_flight_.resize(depth);
  for (std::size_t i = 0; i < depth; ++i) {
    std::optional<Future>& place = in_flight_[(oldest_ + i) % depth];
    if (place) continue;
    Result<Request> request = filled_request();
    if (!request) return error(request.error());
    Result<Future> future = std::move(*request).submit();
    if (!future) return error(future.error());
    place = std::move(*future);
  }
  std::optional<Future>& oldest = in_flight_[oldest_];
  while (!oldest->ready()) {
  }
  const Result<Reply> reply = oldest->wait();
  if (!reply) return error(reply.error());
  look_at(*reply);
  oldest.reset();
  oldest_ = (oldest_ + 1) % depth;
  return Clock::now() - started;
}

Status DaemonCaller::fill_only() {
  const Result<Request> request = filled_request();
  return request ? Status() : request.error();
}

Result<nanoseconds> DaemonCaller::call_minus_execution() {
  nanoseconds execution{0};
  const Clock::time_point started = Clock::now();
  {
    Result<Request> request = filled_request();
    if (!request) return error(request.error());
    const Result<Reply> reply = std::move(*request).run();
    if (!reply) return error(reply.error());
    look_at(*reply);
    execution = reply->execute_time();
  }
  return Clock::now() - started - execution;
}

}  // namespace bucketd
