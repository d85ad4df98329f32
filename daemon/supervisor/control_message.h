// Building messages of the control protocol.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "bucketd/status.h"
#include "common/wire/model_wire.h"
#include "control_generated.h"

namespace bucketd::supervisor {

// A message whose body `make` builds with the builder that it gets:
//   control_message(id, [&](auto& builder) { return wire::CreateOk(builder); })
template <typename Make>
std::vector<std::byte> control_message(std::uint64_t request_id, Make make) {
  flatbuffers::FlatBufferBuilder builder;
  const auto body = make(builder);
  const auto type_of = []<typename T>(flatbuffers::Offset<T>) {
    return wire::BodyTraits<T>::enum_value;
  };
  builder.Finish(wire::CreateMessage(builder, request_id, type_of(body), body.Union()));
  const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {bytes, bytes + builder.GetSize()};
}

// A text of a message that may be absent.
inline std::string text_of(const flatbuffers::String* string) {
  return string != nullptr ? string->str() : std::string();
}

inline std::vector<std::byte> error_message(std::uint64_t request_id, const Status& status) {
  return control_message(request_id, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateError(builder, wire::to_wire(builder, status));
  });
}

inline std::vector<std::byte> ok_message(std::uint64_t request_id) {
  return control_message(
      request_id, [](flatbuffers::FlatBufferBuilder& builder) { return wire::CreateOk(builder); });
}

}  // namespace bucketd::supervisor
