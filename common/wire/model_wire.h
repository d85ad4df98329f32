// ModelDescription, Status and LaneLayout to and from the wire.
#pragma once

#include <flatbuffers/flatbuffers.h>

#include "bucketd/model_description.h"
#include "bucketd/status.h"
#include "common/channel_layout.h"
#include "model_generated.h"

namespace bucketd::wire {

flatbuffers::Offset<ModelDescription> to_wire(flatbuffers::FlatBufferBuilder& builder,
                                              const bucketd::ModelDescription& model);

// Checks everything that validate() checks; INVALID_ARGUMENT says what is wrong.
Result<bucketd::ModelDescription> from_wire(const ModelDescription& model);

flatbuffers::Offset<Status> to_wire(flatbuffers::FlatBufferBuilder& builder,
                                    const bucketd::Status& status);

// An unknown code becomes UNKNOWN; a missing status becomes INTERNAL with a text that says so.
bucketd::Status from_wire(const Status* status);

LaneLayout to_wire(const bucketd::LaneLayout& layout);
// INVALID_ARGUMENT if it is missing or not consistent.
Result<bucketd::LaneLayout> from_wire(const LaneLayout* layout);

}  // namespace bucketd::wire
