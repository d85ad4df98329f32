// bucketd-worker: started by bucketd, never by hand. See README.md.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "daemon/backends/backend.h"
#include "daemon/worker/control_link.h"
#include "daemon/worker/worker.h"

int main(int argc, char** argv) {
  CLI::App app("The process that owns cores and models for bucketd. It is started by bucketd.");
  int socket_fd = -1;
  app.add_option("--socket-fd", socket_fd, "Descriptor of the link to the supervisor")->required();
  CLI11_PARSE(app, argc, argv);

  // Workers never outlive their supervisor: the link's end says so, and this where the link cannot
  // be read because a model hangs or loads. Whoever died before this call has closed the link.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The supervisor decides when we end; a terminal's or a service manager's signal to the whole
  // group must not cut off requests that it still drains.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(number, SIG_IGN);

  // A descriptor for every channel and stream; nothing here uses select().
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }

  bucketd::Result<bucketd::EventFd> wake = bucketd::EventFd::make();
  if (!wake) {
    std::fprintf(stderr, "bucketd-worker: %s\n", wake.error().to_string().c_str());
    return 1;
  }
  bucketd::Outbox outbox(&*wake);
  bucketd::ControlLink link(bucketd::UniqueFd(socket_fd), *wake, outbox);
  bucketd::Worker worker(
      {.make_backend = bucketd::make_torchscript_backend, .installs_fault_handler = true}, *wake,
      outbox);
  const bucketd::Status status = link.run(worker);
  if (!status.ok()) {
    std::fprintf(stderr, "bucketd-worker: %s\n", status.to_string().c_str());
  }
  std::fflush(nullptr);
  // The supervisor is gone or gives us up: a request that never ends must not keep us here, and
  // there is nothing to save.
  std::_Exit(status.ok() ? 0 : 1);
}
