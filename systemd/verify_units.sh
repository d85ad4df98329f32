#!/bin/sh
# Checks the units with systemd-analyze: verify_units.sh SOURCE_DIR BUCKETD_EXECUTABLE
# Exit code 77: skipped, the tool is not there.
set -eu
source_dir=$1
executable=$2
if ! command -v systemd-analyze >/dev/null; then
  echo "skipped: systemd-analyze is not installed"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$source_dir/bucketd.service" "$source_dir/bucketd.socket" "$folder"
# The command has to exist, and need not be installed.
sed -i "s|^ExecStart=/usr/bin/bucketd |ExecStart=$executable |" "$folder/bucketd.service"
grep -q "^ExecStart=$executable " "$folder/bucketd.service"
# Only the document it names may be missing here.
sed -i '/^Documentation=/d' "$folder/bucketd.service"
output=$(systemd-analyze verify --man=no "$folder/bucketd.service" "$folder/bucketd.socket" 2>&1) || {
  echo "$output"
  exit 1
}
# Warnings (unknown keys, for example) do not make the tool fail.
if [ -n "$output" ]; then
  echo "$output"
  exit 1
fi
# The user and the folders, in a root of their own. Giving folders to the user takes root.
root=$folder/root
mkdir -p "$root/etc" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d"
cp "$source_dir/bucketd.sysusers" "$root/usr/lib/sysusers.d/bucketd.conf"
cp "$source_dir/bucketd.tmpfiles" "$root/usr/lib/tmpfiles.d/bucketd.conf"
if [ "$(id -u)" = 0 ] && command -v systemd-sysusers >/dev/null &&
   command -v systemd-tmpfiles >/dev/null; then
  systemd-sysusers --root="$root" bucketd.conf >/dev/null
  grep -q '^bucketd:' "$root/etc/passwd"
  systemd-tmpfiles --create --root="$root" bucketd.conf
  test -d "$root/var/lib/bucketd/models"
fi
echo "bucketd.service and bucketd.socket are good"
