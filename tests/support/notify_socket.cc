#include "tests/support/notify_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

namespace bucketd::test {

NotifySocket::NotifySocket(std::filesystem::path path)
    : path_(std::move(path)),
      socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    std::perror("bind of the notify socket");
    std::abort();
  }
}

NotifySocket::~NotifySocket() { ::unlink(path_.c_str()); }

void NotifySocket::receive_all() {
  std::array<char, 4096> buffer;
  while (true) {
    const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return;
    std::istringstream message(std::string(buffer.data(), static_cast<std::size_t>(got)));
    for (std::string line; std::getline(message, line);) lines_.push_back(line);
  }
}

bool NotifySocket::wait_for(std::string_view line, pid_t pid, SteadyTime deadline) {
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  while (true) {
    receive_all();
    if (std::find(lines_.begin(), lines_.end(), line) != lines_.end()) return true;
    const int left = milliseconds_until(deadline);
    if (left == 0) return false;
    std::array<pollfd, 2> entries = {{{socket_.get(), POLLIN, 0}, {pidfd.get(), POLLIN, 0}}};
    ::poll(entries.data(), entries.size(), left);
    if (entries[1].revents != 0 && entries[0].revents == 0) return false;
  }
}

}  // namespace bucketd::test
