#include "daemon/supervisor/configuration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bucketd::supervisor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Configuration parsed(const std::string& text) {
  const Result<Configuration> configuration = parse_configuration(text, "f.yaml");
  if (!configuration) {
    ADD_FAILURE() << configuration.error().message();
    return {};
  }
  return *configuration;
}

TEST(Configuration, an_empty_file_gives_the_defaults) {
  const Configuration configuration = parsed("");
  EXPECT_EQ(configuration.socket.path, "/run/bucketd/bucketd.sock");
  EXPECT_EQ(configuration.socket.mode, 0660u);
  EXPECT_EQ(configuration.limits.lane_bytes, 67108864u);
  ASSERT_EQ(configuration.workers.size(), 1u);
  EXPECT_GE(configuration.workers[0].cores, 1u);
  EXPECT_TRUE(configuration.models.empty());
}

TEST(Configuration, reads_every_section) {
  const Configuration configuration = parsed(R"(
socket: {path: /tmp/s, mode: "0600"}
access: {users: [root, 4242], groups: [0], admin_users: [1], admin_groups: [2, 3]}
artifact_roots: [/models, /more]
workers:
  - {first_core: 0, cores: 2, threads_per_core: 3}
  - {first_core: 2, cores: 1}
models:
  - {name: a, path: a.pt, worker: 1, execution_limit_ms: 50, slots: 8, state_scope: model,
     share_across_users: true}
  - {path: /more/b.pt}
limits: {max_connections: 10, max_connections_per_user: 5, max_lanes_per_connection: 3,
         max_request_bytes: 8192, lane_bytes: 16384, probe_timeout_ms: 7,
         max_shared_bytes_per_user: 1048576}
sessions: {per_user: 9, total: 10, bytes_per_user: 11, bytes_total: 12, idle_timeout_ms: 8000,
           when_full: evict_longest_idle}
crash: {deaths_per_client: 1, deaths_window_s: 2, restart_delay_ms: 3, restart_delay_max_ms: 4}
wakeup: {policy: socket, spin_us: 5}
logging: {level: debug, target: stderr}
shutdown: {drain_timeout_ms: 6}
)");
  EXPECT_EQ(configuration.socket.mode, 0600u);
  EXPECT_THAT(configuration.access.users, ElementsAre(0u, 4242u));
  EXPECT_THAT(configuration.access.admin_groups, ElementsAre(2u, 3u));
  EXPECT_THAT(configuration.artifact_roots, ElementsAre("/models", "/more"));
  ASSERT_EQ(configuration.workers.size(), 2u);
  EXPECT_EQ(configuration.workers[0].threads_per_core, 3u);
  ASSERT_EQ(configuration.models.size(), 2u);
  EXPECT_EQ(configuration.models[0].execution_limit, std::chrono::milliseconds(50));
  EXPECT_EQ(configuration.models[0].worker, 1u);
  EXPECT_EQ(configuration.models[1].name, "");
  EXPECT_EQ(configuration.limits.max_lanes_per_connection, 3u);
  EXPECT_EQ(configuration.models[0].state_scope, StateScope::kModel);
  EXPECT_TRUE(configuration.models[0].share_across_users);
  EXPECT_EQ(configuration.models[1].state_scope, StateScope::kSession);
  EXPECT_EQ(configuration.sessions.per_user, 9u);
  EXPECT_EQ(configuration.sessions.total, 10u);
  EXPECT_EQ(configuration.sessions.bytes_per_user, 11u);
  EXPECT_EQ(configuration.sessions.bytes_total, 12u);
  EXPECT_EQ(configuration.sessions.idle_timeout, std::chrono::seconds(8));
  EXPECT_EQ(configuration.sessions.when_full, WhenFull::kEvictLongestIdle);
  EXPECT_EQ(configuration.crash.deaths_per_client, 1u);
  EXPECT_EQ(configuration.wakeup.policy, WakeupChoice::kSocket);
  EXPECT_EQ(configuration.logging.level, "debug");
  EXPECT_EQ(configuration.logging.target, LogTarget::kStderr);
  EXPECT_EQ(configuration.shutdown.drain_timeout, std::chrono::milliseconds(6));
}

struct Bad {
  const char* text;
  const char* error;  // how its first line begins, file name included
};

class BadConfiguration : public ::testing::TestWithParam<Bad> {};

TEST_P(BadConfiguration, is_refused_with_its_position) {
  const Result<Configuration> configuration = parse_configuration(GetParam().text, "f.yaml");
  ASSERT_FALSE(configuration.has_value()) << GetParam().text;
  EXPECT_EQ(configuration.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(configuration.error().message(), StartsWith(GetParam().error)) << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfiguration,
    ::testing::Values(
        Bad{"a: b: c", "f.yaml:1:5: not YAML"}, Bad{"socket: [\n  a: }", "f.yaml:2:6: not YAML"},
        Bad{"- a", "f.yaml:1:1: the configuration must be a mapping of keys to values, not a list"},
        Bad{"modles: []", "f.yaml:1:1: unknown key 'modles'; known here: access, artifact_roots"},
        Bad{"socket:\n  pth: /x", "f.yaml:2:3: unknown key 'socket.pth'; known here: mode, path"},
        Bad{"limits: 3", "f.yaml:1:9: 'limits' must be a mapping of keys to values, not '3'"},
        Bad{"limits:\n  lane_bytes: 1M",
            "f.yaml:2:15: 'limits.lane_bytes' must be an integer from 4096 to"},
        Bad{"limits:\n  lane_bytes: -1", "f.yaml:2:15: 'limits.lane_bytes' must be an integer"},
        Bad{"limits:\n  lane_bytes: 1.5", "f.yaml:2:15: 'limits.lane_bytes' must be an integer"},
        Bad{"limits:\n  lane_bytes: [1]",
            "f.yaml:2:15: 'limits.lane_bytes' must be an integer from 4096 to 1099511627776, not "
            "a list"},
        Bad{"limits:\n  lane_bytes: 99999999999999999999999",
            "f.yaml:2:15: 'limits.lane_bytes' must be an integer"},
        Bad{"limits:\n  max_connections: 0",
            "f.yaml:2:20: 'limits.max_connections' must be an integer from 1 to"},
        Bad{"limits:\n  max_connections: 5\n  max_connections_per_user: 6",
            "f.yaml:3:29: 'limits.max_connections_per_user' is 6, above "
            "'limits.max_connections', 5"},
        Bad{"limits:\n  max_shared_bytes_per_user: 1048576",
            "f.yaml:2:30: 'limits.max_shared_bytes_per_user' contradicts: one lane of 67108864 "
            "bytes does not fit"},
        Bad{"sessions:\n  total: 5\n  per_user: 6",
            "f.yaml:3:13: 'sessions.per_user' is 6, above 'sessions.total', 5"},
        Bad{"sessions:\n  bytes_total: 5\n  bytes_per_user: 6",
            "f.yaml:3:19: 'sessions.bytes_per_user' is 6, above 'sessions.bytes_total', 5"},
        Bad{"sessions:\n  when_full: evict",
            "f.yaml:2:14: 'sessions.when_full' must be one of refuse, evict_longest_idle"},
        Bad{"limits:\n  session_idle_s: 5", "f.yaml:2:3: unknown key 'limits.session_idle_s'"},
        Bad{"artifact_roots: [/m]\nmodels:\n  - {path: a.pt, share_across_users: true}",
            "f.yaml:3:38: 'models[0].share_across_users' contradicts"},
        Bad{"crash:\n  restart_delay_ms: 9\n  restart_delay_max_ms: 8",
            "f.yaml:2:21: 'crash.restart_delay_ms' contradicts"},
        Bad{"crash: {restart_delay_max_ms: 8}",
            "f.yaml:1:31: 'crash.restart_delay_max_ms' contradicts: 'crash.restart_delay_ms', 50"},
        Bad{"socket: {mode: 888}", "f.yaml:1:16: 'socket.mode' must be permissions in octal"},
        Bad{"socket: {mode: \"07777\"}", "f.yaml:1:16: 'socket.mode' must be permissions in octal"},
        Bad{"socket: {path: run/s}",
            "f.yaml:1:9: 'socket' has the path 'run/s'; it must be "
            "absolute"},
        Bad{"socket: {path: \"\"}", "f.yaml:1:16: 'socket.path' must be a text, not an empty one"},
        Bad{"socket: {path: "
            "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "aa"
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}",
            "f.yaml:1:9: 'socket' has a path of "},
        Bad{"access: {users: [root, no-such-user-here]}",
            "f.yaml:1:24: 'access.users' names 'no-such-user-here', which does not exist"},
        Bad{"access: {groups: root}", "f.yaml:1:18: 'access.groups' must be a list, not 'root'"},
        Bad{"artifact_roots: [/a, models]",
            "f.yaml:1:17: 'artifact_roots' has 'models'; every root must be absolute"},
        Bad{"artifact_roots: [/a, [b]]",
            "f.yaml:1:22: elements of 'artifact_roots' must be texts, not a list"},
        Bad{"worker_executable: /no/such/file",
            "f.yaml:1:20: 'worker_executable' names '/no/such/file', which cannot be executed"},
        Bad{"workers: []", "f.yaml:1:10: 'workers' must name at least one worker"},
        Bad{"workers: [{cores: 0}]", "f.yaml:1:19: 'workers[0].cores' must be an integer from 1"},
        Bad{"workers: [{cores: 65}]",
            "f.yaml:1:19: 'workers[0].cores' must be an integer from 1 "
            "to 64"},
        Bad{"workers:\n  - {first_core: 0, cores: 4}\n  - {first_core: 3, cores: 1}",
            "f.yaml:3:18: 'workers[1].first_core' and 'cores' take cores 3 to 3, some of which "
            "are workers[0]'s, 0 to 3"},
        Bad{"workers:\n  - {operator_libraries: [/no/such.so]}",
            "f.yaml:2:26: 'workers[0].operator_libraries' has '/no/such.so', which cannot be read"},
        Bad{"models: [{path: a.pt}]",
            "f.yaml:1:17: 'models[0].path' needs a folder in "
            "'artifact_roots'"},
        Bad{"artifact_roots: [/m]\nmodels: [{name: a}]",
            "f.yaml:2:10: 'models[0].path' is missing"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: a.pt, worker: 1}]",
            "f.yaml:2:31: 'models[0].worker' is 1; there are workers 0 to 0"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: ../a.pt}]",
            "f.yaml:2:17: 'models[0].path' artifact '../a.pt' goes through '..'"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: /n/a.pt}]",
            "f.yaml:2:17: 'models[0].path' artifact '/n/a.pt' is not beneath the artifact roots: "
            "/m"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: a.pt, name: a/b}]",
            "f.yaml:2:29: 'models[0].name' must be 1 to 64 characters"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: a.pt, name: a}, {path: b.pt, name: a}]",
            "f.yaml:2:52: 'models[1].name' 'a' is there twice"},
        Bad{"artifact_roots: [/m]\nmodels: [{path: a.pt, execution_limit_ms: 0}]",
            "f.yaml:2:43: 'models[0].execution_limit_ms' must be an integer from 1"},
        Bad{"wakeup: {policy: fast}",
            "f.yaml:1:18: 'wakeup.policy' must be one of auto, futex, socket; not 'fast'"},
        Bad{"logging:\n  level: loud", "f.yaml:2:10: 'logging.level' must be one of trace, debug"},
        Bad{"logging: {target: [a]}", "f.yaml:1:19: 'logging.target' must be one of auto"},
        Bad{"shutdown: {}\nshutdown: {}", "f.yaml:2:1: key 'shutdown' is there twice"},
        Bad{"? [a]\n: b", "f.yaml:1:3: a key must be a text, not a list"}));

TEST(Configuration, lists_all_errors_in_the_files_order) {
  const Result<Configuration> configuration =
      parse_configuration("logging: {level: x}\nbad: 1\nlimits: {lane_bytes: a}\n", "f.yaml");
  ASSERT_FALSE(configuration.has_value());
  const std::string& text = configuration.error().message();
  const std::size_t first = text.find("f.yaml:1:18:");
  const std::size_t second = text.find("\nf.yaml:2:1:");
  const std::size_t third = text.find("\nf.yaml:3:22:");
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_NE(third, std::string::npos) << text;
}

TEST(Configuration, a_missing_file_is_named) {
  const Result<Configuration> configuration = load_configuration("/no/such/bucketd.yaml");
  ASSERT_FALSE(configuration.has_value());
  EXPECT_EQ(configuration.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(configuration.error().message(), HasSubstr("/no/such/bucketd.yaml"));
}

TEST(Configuration, the_annotated_file_states_the_real_defaults) {
  const Result<Configuration> file = load_configuration(BUCKETD_CONFIG_DIR "/bucketd.yaml");
  ASSERT_TRUE(file.has_value()) << file.error().message();
  const Configuration built_in;
  EXPECT_EQ(file->socket.path, built_in.socket.path);
  EXPECT_EQ(file->socket.mode, built_in.socket.mode);
  EXPECT_EQ(file->limits, built_in.limits);
  EXPECT_EQ(file->crash, built_in.crash);
  EXPECT_EQ(file->wakeup.policy, built_in.wakeup.policy);
  EXPECT_EQ(file->wakeup.spin_us, built_in.wakeup.spin_us);
  EXPECT_EQ(file->logging.level, built_in.logging.level);
  EXPECT_EQ(file->logging.target, built_in.logging.target);
  EXPECT_EQ(file->shutdown.drain_timeout, built_in.shutdown.drain_timeout);
}

TEST(Configuration, the_examples_are_good) {
  for (const char* name : {"development.yaml", "two-workers.yaml"}) {
    const Result<Configuration> file =
        load_configuration(std::string(BUCKETD_CONFIG_DIR "/") + name);
    EXPECT_TRUE(file.has_value()) << file.error().message();
  }
}

}  // namespace
}  // namespace bucketd::supervisor
