// Status: the one error type of bucketd, on both sides of the socket.
//
//   Result<Model> model = client.describe("bert");
//   if (!model) return tl::unexpected(model.error());
//   use(*model);
//
// Thread safety: values; as for std::string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace bucketd {

// Canonical codes, with the meaning that gRPC and Abseil give them. The numbers are part of the
// channel ABI (CompletionEntry::status) and of the control protocol: never renumber.
enum class StatusCode : std::uint32_t {
  kOk = 0,
  kCancelled = 1,           // the caller, or the end of its connection, withdrew the request
  kUnknown = 2,             // an error that carries no better code
  kInvalidArgument = 3,     // the request is wrong whatever the state of the daemon
  kDeadlineExceeded = 4,    // the deadline passed; the request may or may not have run
  kNotFound = 5,            // no such model, session, file
  kAlreadyExists = 6,       // the name is taken
  kPermissionDenied = 7,    // this user may not do this
  kResourceExhausted = 8,   // a quota or limit; the text names it
  kFailedPrecondition = 9,  // not in the present state (for example a torn session)
  kAborted = 10,            // the worker died while it ran this very request
  kOutOfRange = 11,         // a size beyond a limit, for example above the largest bucket
  kUnimplemented = 12,      // not supported by this daemon or backend
  kInternal = 13,           // a fault of bucketd
  kUnavailable = 14,        // the daemon or the worker is away; safe to send again
  kDataLoss = 15,           // damaged artifact or lost state
  kWouldBlock = 100,        // no free slot, and the caller did not want to wait
};

// The code as users write it: "INVALID_ARGUMENT". Never null.
const char* status_code_name(StatusCode code);

// Whether `code` is one of the enumerators: what arrives from another process need not be.
bool is_known_status_code(std::uint32_t code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  // For people: names model, input, dimension and limit, and what would be right.
  const std::string& message() const { return message_; }
  // "NOT_FOUND: no model named 'brt'; loaded: bert, gpt".
  std::string to_string() const;

  // The same code with `context` in front: "while loading model 'bert': ...".
  Status with_context(std::string_view context) const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A value, or why there is none. The error is never an ok status.
template <typename T>
using Result = tl::expected<T, Status>;

// return error(StatusCode::kNotFound, "...") from a function that returns Result<T>.
inline tl::unexpected<Status> error(StatusCode code, std::string message) {
  return tl::unexpected<Status>(Status(code, std::move(message)));
}
inline tl::unexpected<Status> error(Status status) {
  return tl::unexpected<Status>(std::move(status));
}

}  // namespace bucketd
