// A gRPC model server over a Unix socket, its synchronous interface on both sides.
//   --mode message: the tensor in the message;  --mode shm: the tensor in memory that both map.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <memory>
#include <string>

#include "common/memfd.h"
#include "tensor_service.grpc.pb.h"
#include "tools/bench/baselines/baseline_program.h"
#include "tools/bench/baselines/served_model.h"
#include "tools/bench/cpu.h"
#include "tools/bench/turn_program.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kStartTimeout{30};

class Service final : public bench::TensorService::Service {
 public:
  Service(ServedModel model, std::span<const std::byte> shared)
      : model_(std::move(model)), shared_(shared) {}

  grpc::Status Infer(grpc::ServerContext*, const bench::TensorRequest* request,
                     bench::TensorReply* reply) override {
    const std::string& data = request->data();
    const std::span<const std::byte> input =
        data.empty() ? shared_.subspan(request->offset(), request->byte_size())
                     : std::as_bytes(std::span(data));
    const Result<std::span<const std::byte>> answer = model_.answer(input);
    if (!answer) return {grpc::StatusCode::INTERNAL, answer.error().message()};
    reply->set_data(answer->data(), answer->size());
    return grpc::Status::OK;
  }

 private:
  ServedModel model_;
  std::span<const std::byte> shared_;
};

void serve(const std::string& address, const BaselineOptions& options,
           std::span<const std::byte> shared) {
  keep_large_buffers();
  Result<ServedModel> model = ServedModel::load(options.artifact);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().to_string().c_str());
    return;
  }
  Service service(std::move(*model), shared);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(INT_MAX);
  builder.RegisterService(&service);
  builder.BuildAndStart()->Wait();
}

Result<TurnCaller> make_caller(const BaselineOptions& options) {
  const bool in_message = options.mode == "message";
  Result<UniqueFd> fd = create_memfd("bucketd-bench-grpc", options.bytes);
  if (!fd) return error(fd.error());
  Result<MappedRegion> region = map_memfd(fd->get(), options.bytes, MapAccess::kReadWrite);
  if (!region) return error(region.error());
  const auto memory = std::make_shared<MappedRegion>(std::move(*region));
  const std::span<std::byte> shared(static_cast<std::byte*>(memory->get_address()), options.bytes);

  const std::string address = "unix-abstract:bucketd-bench-" + std::to_string(::getpid());
  Result<BaselineServer> server =
      BaselineServer::start(options, [&] { serve(address, options, shared); });
  if (!server) return error(server.error());
  const auto kept = std::make_shared<BaselineServer>(std::move(*server));

  keep_large_buffers();
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(INT_MAX);
  arguments.SetMaxReceiveMessageSize(INT_MAX);
  const auto channel =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kStartTimeout)) {
    return error(StatusCode::kUnavailable, "the gRPC server did not start");
  }
  const std::shared_ptr<bench::TensorService::Stub> stub = bench::TensorService::NewStub(channel);
  // Made once: its memory is written anew for each call.
  const auto request = std::make_shared<bench::TensorRequest>();
  request->add_dims(static_cast<std::int64_t>(options.bytes / sizeof(float)));
  if (in_message) {
    request->mutable_data()->resize(options.bytes);
  } else {
    request->set_byte_size(options.bytes);
  }

  TurnCaller caller;
  caller.call = [stub, request, memory, shared, in_message]() -> Result<nanoseconds> {
    const Clock::time_point started = Clock::now();
    void* input = in_message ? static_cast<void*>(request->mutable_data()->data()) : shared.data();
    std::fill_n(static_cast<float*>(input), shared.size() / sizeof(float), 1.0F);
    grpc::ClientContext context;
    bench::TensorReply reply;
    const grpc::Status status = stub->Infer(&context, *request, &reply);
    if (!status.ok()) return error(StatusCode::kInternal, status.error_message());
    return Clock::now() - started;
  };
  caller.server_cpu = [kept] { return cpu_time_of(kept->pid()); };
  return caller;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) {
  const bucketd::BaselineOptions options =
      bucketd::parse_baseline_options(argc, argv, "Calls a model behind gRPC.");
  return bucketd::serve_turns([&options] { return bucketd::make_caller(options); });
}
