// Who is at the other end of a control connection, and what that user may do.
//
// Thread safety: values.
#pragma once

#include <sys/types.h>

#include <vector>

#include "bucketd/status.h"
#include "daemon/supervisor/configuration.h"

namespace bucketd::supervisor {

// As of the moment at which the peer connected (SO_PEERCRED, SO_PEERGROUPS).
struct PeerCredentials {
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t pid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// The credentials of the peer of a connected AF_UNIX socket.
Result<PeerCredentials> peer_credentials(int socket);

class AccessPolicy {
 public:
  // `own_uid`: the daemon's user, who is always an administrator, as root is.
  AccessPolicy(AccessConfiguration configuration, uid_t own_uid);

  bool may_use(const PeerCredentials& peer) const;
  bool is_admin(const PeerCredentials& peer) const;

 private:
  AccessConfiguration configuration_;
  uid_t own_uid_;
};

}  // namespace bucketd::supervisor
