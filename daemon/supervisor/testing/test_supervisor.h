// TestSupervisor: a real bucketd process with fake workers, in a folder of its own.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

#include "common/fd.h"
#include "daemon/supervisor/testing/control_client.h"

namespace bucketd::testing {

class TestSupervisor {
 public:
  TestSupervisor();
  // Ends the daemon and expects that no process of it is left.
  ~TestSupervisor();
  TestSupervisor(const TestSupervisor&) = delete;
  TestSupervisor& operator=(const TestSupervisor&) = delete;

  // Writes models/NAME with these lines; see fake_worker.cc.
  void write_artifact(const std::string& name, const std::string& lines);
  // Starts the daemon with `yaml` appended to socket, roots and worker_executable.
  void start(const std::string& yaml, const std::filesystem::path& worker = BUCKETD_FAKE_WORKER);
  // The same with a socket that was made before, as systemd does.
  void start_activated(const std::string& yaml);
  // Waits until it says READY=1; fails the test when it does not.
  void wait_ready();

  ControlClient connect();  // greeted
  void signal(int number) const;
  // Its exit code waits to be asked for.
  bool has_ended() const;
  // Waits for its end and gives its exit code, or 128 + signal.
  int wait_end();

  std::filesystem::path folder() const { return folder_; }
  std::string socket_path() const { return (folder_ / "socket").string(); }
  std::string log() const;
  pid_t pid() const { return pid_; }

 private:
  void write_config(const std::string& yaml, const std::filesystem::path& worker);
  // Executes bucketd; `activation`: its listening socket, or -1.
  void execute(int activation);

  std::filesystem::path folder_;
  UniqueFd notify_;
  pid_t pid_ = 0;
};

// Builders of the requests that tests send most.
inline auto open_lane_request(std::string model, std::uint32_t wait_ms = 10000,
                              wire::Transport transport = wire::Transport::kRing) {
  return [model = std::move(model), wait_ms, transport](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateOpenLane(builder, builder.CreateString(model), transport, 0, wait_ms);
  };
}

}  // namespace bucketd::testing
