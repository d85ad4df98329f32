#!/usr/bin/env bash
# Installs the Debian packages that bucketd needs. A second run finds everything in place and is
# instant, also without network.
#
#   tools/install-packages.sh [demo|test|bench]     default: test
#
# demo: what builds and runs bucketd. test: also what checks it (sanitizers, clang, formatting).
# bench: what bucketd-bench compares it with, and draws with; not needed for anything else.
set -euo pipefail

readonly kDemoPackages=(
  build-essential g++ cmake ninja-build ccache pkg-config ca-certificates
  libtorch-dev           # the worker's backend
  libopenblas0-openmp    # LibTorch without it falls back to a BLAS ten times slower; this build's
                         # threads can be bounded per executor
  python3 python3-torch python3-numpy   # authoring artifacts
  libboost-dev libyaml-cpp-dev libspdlog-dev libexpected-dev
  libflatbuffers-dev flatbuffers-compiler
  libcli11-dev nlohmann-json3-dev libssl-dev libsystemd-dev
  libgtest-dev libgmock-dev libbenchmark-dev   # the configure step looks for them
)
readonly kTestPackages=(
  clang clang-tidy clang-format libclang-rt-14-dev
  systemd                # systemd-analyze verify
  util-linux             # unshare, for the namespace test
  procps
)
readonly kBenchPackages=(
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libiceoryx-posh-dev iceoryx
  gnuplot-nox
)

mode=${1:-test}
case "$mode" in
  demo) wanted=("${kDemoPackages[@]}") ;;
  test) wanted=("${kDemoPackages[@]}" "${kTestPackages[@]}") ;;
  bench) wanted=("${kDemoPackages[@]}" "${kBenchPackages[@]}") ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "usage: tools/install-packages.sh [demo|test|bench]" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ "$status" == ?i* ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi

echo "packages: installing ${#missing[@]} of ${#wanted[@]}: ${missing[*]}"
as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "packages: not root and no sudo here; run as root:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get
     -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -y)

# The lists of a fresh machine are empty or old; where they are good the first attempt saves a
# minute.
if ! "${apt[@]}" install --no-install-recommends "${missing[@]}"; then
  echo "packages: updating the package lists and trying again"
  "${apt[@]}" update
  "${apt[@]}" install --no-install-recommends "${missing[@]}"
fi
echo "packages: done"
