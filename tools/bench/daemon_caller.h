// DaemonCaller: calls one model of a daemon with the same inputs again and again, as a program
// would that has new ones each time: slot, inputs written into it, answer, first element read.
//
// Thread safety: one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bucketd/client.h"
#include "bucketd/session.h"
#include "daemon/backends/backend.h"

namespace bucketd {

// Inputs of given shapes for a model, all ones: valid as token ids, masks and numbers alike.
class OnesInputs {
 public:
  OnesInputs(const ModelDescription& model, std::vector<Shape> shapes);

  const std::vector<Shape>& shapes() const { return shapes_; }
  std::span<const std::vector<std::byte>> memory() const { return memory_; }
  std::span<const ConstTensorView> views() const { return views_; }

 private:
  std::vector<Shape> shapes_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<ConstTensorView> views_;
};

// Inputs of bucket `bucket` with all dims that it pads cut to `size`; nothing: exactly full.
std::vector<Shape> shapes_of(const ModelDescription& model, std::size_t bucket,
                             std::optional<std::int64_t> size = std::nullopt);

class DaemonCaller {
 public:
  // Opens a session if the model has states.
  static Result<DaemonCaller> make(Model model, std::vector<Shape> shapes);

  // One call, all of it timed.
  Result<std::chrono::nanoseconds> call();
  // The same for a model with one contiguous float32 input, whose values are made in the slot
  // instead of being copied there.
  Result<std::chrono::nanoseconds> call_generating();
  // Without what comes before submission: slot and inputs are there already.
  Result<std::chrono::nanoseconds> call_filled();
  // Fills a slot and gives it back without a call.
  Status fill_only();
  // One call without its execution, as the worker timed that: kernel, bucket and copies.
  Result<std::chrono::nanoseconds> call_minus_execution();

  // Keeps `depth` requests in flight, takes the answer of the oldest, and looks for that without
  // ever sleeping. What it takes from one answer to the next.
  Result<std::chrono::nanoseconds> call_pipelined(std::size_t depth);

  const OnesInputs& inputs() const { return inputs_; }

 private:
  DaemonCaller(Model model, std::optional<Session> session, OnesInputs inputs)
      : model_(std::move(model)), session_(std::move(session)), inputs_(std::move(inputs)) {}

  Result<Request> new_request();
  Result<Request> filled_request();

  Model model_;
  std::optional<Session> session_;
  OnesInputs inputs_;
  // Of call_pipelined(), a ring: the oldest is at oldest_.
  std::vector<std::optional<Future>> in_flight_;
  std::size_t oldest_ = 0;
};

}  // namespace bucketd
