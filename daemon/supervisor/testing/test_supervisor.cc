#include "daemon/supervisor/testing/test_supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

namespace bucketd::testing {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{30};

}  // namespace

TestSupervisor::TestSupervisor() {
  // Orphans of a daemon that died become ours, so that none can hide.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::string pattern = (std::filesystem::temp_directory_path() / "bucketd-XXXXXX").string();
  folder_ = ::mkdtemp(pattern.data());
  std::filesystem::create_directory(folder_ / "models");
  notify_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (folder_ / "notify").c_str(), sizeof(address.sun_path) - 1);
  ::bind(notify_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

TestSupervisor::~TestSupervisor() {
  if (pid_ != 0) {
    signal(SIGKILL);
    wait_end();
  }
  // Every worker and probe dies with it, and so becomes a zombie of ours.
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
  if (::testing::Test::HasFailure()) std::cerr << "--- log ---\n" << log() << "--- end ---\n";
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void TestSupervisor::write_artifact(const std::string& name, const std::string& lines) {
  // A new inode each time, as an atomic replacement makes.
  const std::filesystem::path path = folder_ / "models" / name;
  const std::filesystem::path fresh = folder_ / "models" / (name + ".new");
  std::ofstream(fresh) << lines << '\n';
  std::filesystem::rename(fresh, path);
}

void TestSupervisor::start(const std::string& yaml, const std::filesystem::path& worker) {
  write_config(yaml, worker);
  execute(-1);
}

void TestSupervisor::start_activated(const std::string& yaml) {
  write_config(yaml, BUCKETD_FAKE_WORKER);
  const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path().c_str(), sizeof(address.sun_path) - 1);
  ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  ::listen(socket.get(), 16);
  execute(socket.get());
}

void TestSupervisor::write_config(const std::string& yaml, const std::filesystem::path& worker) {
  std::ofstream(folder_ / "bucketd.yaml")
      << "socket: {path: " << socket_path() << ", mode: \"0666\"}\n"
      << "artifact_roots: [" << (folder_ / "models").string() << "]\n"
      << "worker_executable: " << worker.string() << "\n"
      << yaml;
}

void TestSupervisor::execute(int activation) {
  const std::string config = folder_ / "bucketd.yaml";
  const std::string log_path = folder_ / "log";
  const std::string notify = "NOTIFY_SOCKET=" + (folder_ / "notify").string();
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::putenv(const_cast<char*>(notify.c_str()));
  if (activation >= 0) {
    ::setenv("LISTEN_FDS", "1", 1);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    if (activation == 3) {
      ::fcntl(3, F_SETFD, 0);
    } else {
      ::dup2(activation, 3);
    }
  }
  if (std::freopen(log_path.c_str(), "a", stderr) == nullptr) ::_exit(126);
  ::execl(BUCKETD_EXECUTABLE, BUCKETD_EXECUTABLE, "--config", config.c_str(), nullptr);
  ::_exit(127);
}

void TestSupervisor::wait_ready() {
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (Clock::now() < deadline) {
    char text[4096];
    const ssize_t size = ::recv(notify_.get(), text, sizeof(text), 0);
    if (size > 0) {
      if (std::string_view(text, static_cast<std::size_t>(size)).starts_with("READY=1")) return;
      continue;
    }
    ASSERT_EQ(::waitpid(pid_, nullptr, WNOHANG), 0) << "bucketd ended: " << log();
    pollfd readable{notify_.get(), POLLIN, 0};
    ::poll(&readable, 1, 100);
  }
  FAIL() << "bucketd did not get ready";
}

ControlClient TestSupervisor::connect() {
  ControlClient client(socket_path());
  client.greet();
  return client;
}

void TestSupervisor::signal(int number) const { ::kill(pid_, number); }

bool TestSupervisor::has_ended() const {
  siginfo_t info{};
  return ::waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
}

int TestSupervisor::wait_end() {
  int status = 0;
  ::waitpid(pid_, &status, 0);  // the test's own time limit bounds it
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string TestSupervisor::log() const {
  std::ostringstream text;
  text << std::ifstream(folder_ / "log").rdbuf();
  return text.str();
}

}  // namespace bucketd::testing
