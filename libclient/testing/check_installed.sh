#!/bin/bash
# check_installed.sh BUILD_DIR SOURCE_DIR COMPILER
# Installs the client into a temporary prefix and builds examples/hello.cc against it, as users do:
# with pkg-config, and with CMake's find_package.
set -euo pipefail
build=$1
source=$2
compiler=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --component client --prefix "$work/prefix" >"$work/log" || {
  cat "$work/log"
  exit 1
}
pc=$(find "$work/prefix" -name bucketd-client.pc)
# The file names the configured prefix; this one is elsewhere.
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$work/prefix" \
  --cflags --libs bucketd-client)
# shellcheck disable=SC2086  # flags are words
"$compiler" -std=c++20 "$source/examples/hello.cc" $flags -o "$work/hello"

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.23)
project(hello CXX)
find_package(bucketd-client REQUIRED)
add_executable(hello $source/examples/hello.cc)
target_link_libraries(hello bucketd::client)
END
cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$work/prefix" \
  -DCMAKE_CXX_COMPILER="$compiler" >"$work/log" && cmake --build "$work/project/build" >>"$work/log" || {
  cat "$work/log"
  exit 1
}
# It runs, and finds no daemon.
output=$(BUCKETD_SOCKET=$work/none timeout 60 "$work/project/build/hello" 2>&1 || true)
[[ $output == "UNAVAILABLE: no daemon listens on $work/none" ]] || { echo "$output"; exit 1; }
