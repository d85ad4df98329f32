// The daemon's log: spdlog's default logger, to stderr or to the journal.
#pragma once

#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

// Replaces spdlog's default logger. With LogTarget::kAuto the journal is used exactly when stderr
// is connected to it ($JOURNAL_STREAM).
void start_logging(const LoggingConfiguration& configuration);

}  // namespace bucketd::supervisor
