#include "tests/support/daemon.h"

#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGTERM

#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <utility>

namespace bucketd::test {
namespace {

// Of the daemon's processes.
const std::set<std::string> kProcessNames = {"bucketd", "bucketd-worker"};

}  // namespace

std::filesystem::path executable(const std::string& name) {
  return std::filesystem::path(BUCKETD_TEST_BIN_DIR) / name;
}

std::filesystem::path artifact_directory() { return BUCKETD_TEST_ARTIFACT_DIR; }

void expect_models_to_crash() {
  const char* options = std::getenv("ASAN_OPTIONS");
  const std::string all = std::string(options != nullptr ? options : "") + ":handle_segv=0";
  ::setenv("ASAN_OPTIONS", all.c_str(), /*overwrite=*/1);
}

TestDaemon::TestDaemon(nlohmann::json config) : notify_(directory_.path() / "notify") {
  adopt_orphans();
  if (config.is_null()) config = nlohmann::json::object();
  if (!config.contains("socket")) config["socket"] = nlohmann::json::object();
  config["socket"]["path"] = socket_path();
  if (!config.contains("artifact_roots")) config["artifact_roots"] = {artifact_directory()};
  if (!config.contains("workers")) config["workers"] = {{{"first_core", 0}, {"cores", 2}}};
  if (!config.contains("logging")) config["logging"] = {{"level", "debug"}, {"target", "stderr"}};
  config_path_ = directory_.write("bucketd.yaml", config.dump(2));
}

TestDaemon::~TestDaemon() {
  if (process_ && !process_->wait(SteadyTime::min())) kill();
  if (::testing::Test::HasFailure()) {
    std::cerr << "--- log of bucketd ---\n" << log() << "--- end of log ---\n";
  }
}

nlohmann::json TestDaemon::model_list(const std::vector<std::string>& names, int worker) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& name : names) {
    list.push_back({{"name", name}, {"path", name + ".pt"}, {"worker", worker}});
  }
  return list;
}

nlohmann::json TestDaemon::serving(const std::vector<std::string>& names) {
  return {{"models", model_list(names)}};
}

void TestDaemon::start_without_waiting() {
  notify_.forget_lines();
  process_.reset();
  process_.emplace(
      executable("bucketd"),
      ChildOptions{{"--config", config_path_}, {notify_.variable()}, directory() / "log"});
}

bool TestDaemon::wait_until_ready(SteadyTime deadline) {
  const bool ready = notify_.wait_for("READY=1", process_->pid(), deadline);
  EXPECT_TRUE(ready) << "bucketd did not say READY=1";
  return ready;
}

bool TestDaemon::start() {
  start_without_waiting();
  return wait_until_ready();
}

Client TestDaemon::connect(ClientOptions options) {
  options.socket_path = socket_path();
  Result<Client> client = Client::connect(options);
  if (client) return *client;
  ADD_FAILURE() << "connect: " << client.error().to_string();
  throw std::runtime_error("no connection to bucketd");
}

Model TestDaemon::open(const std::string& name, Transport transport) {
  Result<Model> model = connect({.transport = transport}).open(name);
  if (model) return *model;
  ADD_FAILURE() << "open '" << name << "': " << model.error().to_string();
  throw std::runtime_error("model cannot be opened");
}

void TestDaemon::expect_clean_stop() {
  process_->send(SIGTERM);
  EXPECT_EQ(process_->exit_code(), 0) << "bucketd did not end, or not well, after SIGTERM";
  EXPECT_TRUE(remaining_children(kProcessNames).empty()) << "processes are left";
  EXPECT_FALSE(std::filesystem::exists(socket_path())) << "its socket is left";
}

void TestDaemon::kill() {
  process_->send(SIGKILL);
  process_->wait();
  for (const std::string& process : remaining_children(kProcessNames)) {
    ADD_FAILURE() << process << " outlived bucketd";
  }
}

std::string TestDaemon::log() const { return read_text(directory() / "log"); }

}  // namespace bucketd::test
