// What the daemon reports about itself, from the wire. Strings are as the daemon sent them;
// unknown enumerators, of a later minor version, become the nearest that is harmless.
//
// Thread safety: functions of their arguments only.
#pragma once

#include <vector>

#include "bucketd/client.h"
#include "control_generated.h"

namespace bucketd::internal {

std::vector<ModelSummary> read_models(
    const flatbuffers::Vector<flatbuffers::Offset<wire::ModelSummary>>* models);

std::vector<SessionSummary> read_sessions(const wire::SessionList& list);

DaemonStatus read_status(const wire::StatusReport& report);

}  // namespace bucketd::internal
