#!/bin/bash
# check_library.sh LIBRARY EXAMPLE
# Fails when the client library, or a program linked to it, needs more than the C and C++ libraries,
# or when the library shows symbols that are not its public interface.
set -euo pipefail
library=$1
example=$2
allowed='^(libc|libm|libstdc\+\+|libgcc_s|libbucketd-client|linux-vdso|ld-linux-[a-z0-9-]+)\.so'
failed=0

needed=$(readelf -d "$library" "$example" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
[[ $needed == *libc.so.6* ]] || { echo "readelf shows no dependencies of $library"; exit 1; }
while read -r name; do
  [[ $name =~ $allowed ]] || { echo "needs $name"; failed=1; }
done <<<"$needed"

loaded=$(ldd "$example" | awk '{print $1}' | xargs -n1 basename)
[[ $loaded == *libbucketd-client.so* ]] || { echo "$example does not load the library"; exit 1; }
while read -r name; do
  [[ $name =~ $allowed ]] || { echo "loads $name"; failed=1; }
done <<<"$loaded"

symbols=$(nm -DC --defined-only "$library" | cut -d' ' -f3- | sed 's/@@.*//' | grep -v '^BUCKETD_0$')
for wanted in 'bucketd::Client::connect(' 'bucketd::Request::run(' 'bucketd::dtype_from_name('; do
  [[ $symbols == *"$wanted"* ]] || { echo "does not show $wanted"; failed=1; }
done
while read -r symbol; do
  case $symbol in
    bucketd::internal::ReleaseInFlight::*) ;;
    bucketd::internal::* | bucketd::wire::*) echo "shows $symbol"; failed=1 ;;
    bucketd::*) ;;
    *) echo "shows $symbol"; failed=1 ;;
  esac
done <<<"$symbols"
exit $failed
