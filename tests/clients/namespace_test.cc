// A client in a container that shares nothing with the daemon but the socket: user, mount, IPC,
// network and process namespaces of its own, an empty root with the program, its libraries and the
// socket. No /dev/shm, no /run, no /proc.
#include <gtest/gtest.h>

#include <iostream>
#include <string>

#include "tests/support/daemon.h"

namespace bucketd::test {
namespace {

// $1: folder for the root, $2: program, $3: socket, $4: /proc too; then the program's arguments.
constexpr const char* kEnter = R"(set -e
root=$1 program=$2 socket=$3 proc=$4
shift 4
mount -t tmpfs none "$root"
mkdir "$root/usr" "$root/usr/lib" "$root/bucketd"
mount --rbind /usr/lib "$root/usr/lib"
ln -s usr/lib "$root/lib"
if [ -d /usr/lib64 ]; then
  mkdir "$root/usr/lib64"
  mount --rbind /usr/lib64 "$root/usr/lib64"
  ln -s usr/lib64 "$root/lib64"
fi
touch "$root/bucketd/client" "$root/bucketd/socket"
mount --bind "$program" "$root/bucketd/client"
mount --bind "$socket" "$root/bucketd/socket"
if [ "$proc" = yes ]; then
  mkdir "$root/proc"
  mount --rbind /proc "$root/proc"
fi
exec chroot "$root" /bucketd/client "$@"
)";

class Namespace : public ::testing::TestWithParam<std::string> {};

TEST_P(Namespace, a_client_that_has_only_the_socket_works) {
  const std::vector<std::string> unshare = {"--user", "--map-root-user", "--mount", "--ipc",
                                            "--net",  "--pid",           "--fork"};
  std::vector<std::string> probe = unshare;
  probe.emplace_back("/bin/true");
  if (const RunResult result = run_program("/usr/bin/unshare", probe); result.exit_code != 0) {
    GTEST_SKIP() << "no namespaces here: " << result.output;
  }

  TestDaemon daemon(TestDaemon::serving({"multi"}));
  ASSERT_TRUE(daemon.start());
  const std::filesystem::path root = daemon.directory() / "root";
  std::filesystem::create_directory(root);

  std::vector<std::string> arguments = unshare;
  for (const std::string& argument : std::initializer_list<std::string>{
           "/bin/sh", "-c", kEnter, "sh", root, executable("bucketd-test-client"),
           daemon.socket_path(), kIsSanitized ? "yes" : "no", "--socket", "/bucketd/socket",
           "--calls", "200", "--transport", GetParam()}) {
    arguments.push_back(argument);
  }
  // LeakSanitizer cannot stop threads across the namespace; leaks are looked for elsewhere.
  const RunResult result =
      run_program("/usr/bin/unshare", arguments, {"ASAN_OPTIONS=detect_leaks=0"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  daemon.expect_clean_stop();
}

INSTANTIATE_TEST_SUITE_P(Transports, Namespace, ::testing::Values("ring", "stream"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bucketd::test
