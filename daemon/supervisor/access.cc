#include "daemon/supervisor/access.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/system_error.h"

namespace bucketd::supervisor {
namespace {

template <typename Id>
bool contains(const std::vector<Id>& ids, Id id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

bool is_listed(const PeerCredentials& peer, const std::vector<uid_t>& users,
               const std::vector<gid_t>& groups) {
  return contains(users, peer.uid) || contains(groups, peer.gid) ||
         std::any_of(peer.groups.begin(), peer.groups.end(),
                     [&](gid_t group) { return contains(groups, group); });
}

}  // namespace

Result<PeerCredentials> peer_credentials(int socket) {
  ucred credentials{};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
    return error(status_from_errno("ask who connected", errno));
  }
  PeerCredentials peer{credentials.uid, credentials.gid, credentials.pid, {}};
  std::vector<gid_t> groups(64);
  while (true) {
    bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) break;
    if (errno != ERANGE) return error(status_from_errno("ask for the peer's groups", errno));
    groups.resize(bytes / sizeof(gid_t));
  }
  groups.resize(bytes / sizeof(gid_t));
  peer.groups = std::move(groups);
  return peer;
}

AccessPolicy::AccessPolicy(AccessConfiguration configuration, uid_t own_uid)
    : configuration_(std::move(configuration)), own_uid_(own_uid) {}

bool AccessPolicy::may_use(const PeerCredentials& peer) const {
  if (configuration_.users.empty() && configuration_.groups.empty()) return true;
  return is_admin(peer) || is_listed(peer, configuration_.users, configuration_.groups);
}

bool AccessPolicy::is_admin(const PeerCredentials& peer) const {
  return peer.uid == 0 || peer.uid == own_uid_ ||
         is_listed(peer, configuration_.admin_users, configuration_.admin_groups);
}

}  // namespace bucketd::supervisor
