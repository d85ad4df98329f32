#include "daemon/supervisor/logging.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/systemd_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace bucketd::supervisor {
namespace {

// $JOURNAL_STREAM is "device:inode" of the journal's socket. It is inherited by children whose
// stderr was redirected since, so it must be compared.
bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat info {};
  if (stream == nullptr || ::fstat(2, &info) != 0) return false;
  return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino) == stream;
}

}  // namespace

void start_logging(const LoggingConfiguration& configuration) {
  const bool journal = configuration.target == LogTarget::kJournal ||
                       (configuration.target == LogTarget::kAuto && stderr_is_journal());
  std::shared_ptr<spdlog::logger> logger;
  if (journal) {
    logger = std::make_shared<spdlog::logger>("bucketd",
                                              std::make_shared<spdlog::sinks::systemd_sink_st>());
  } else {
    logger = std::make_shared<spdlog::logger>(
        "bucketd", std::make_shared<spdlog::sinks::stderr_color_sink_st>());
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e bucketd[%P] %^%l%$: %v");
  }
  logger->set_level(spdlog::level::from_str(configuration.level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace bucketd::supervisor
