#!/usr/bin/env bash
# Installs what tests need, builds, and runs every test: in release, and under the address and
# undefined-behaviour sanitizers. Ends with ctest's summary.
#
#   tools/test.sh [--long] [--preset release|debug|asan|tsan]... [--filter REGEX] [--tidy]
#
# --long     storms and soaks at full size (BUCKETD_LONG=1)
# --preset   only this build (default: release, then asan)
# --tidy     clang-tidy too, which takes several minutes more
# --filter   only tests whose name matches, as ctest -R; formatting and clang-tidy are skipped
#
# Exit code 0 only if everything passed. Leaves build/PRESET and nothing else: no process, socket,
# shared memory or temporary file.
set -euo pipefail

readonly kRoot=$(cd "$(dirname "$0")/.." && pwd)
readonly kTidyLimitSeconds=420   # of the 45 minutes that everything may take on two cores

presets=()
filter=
tidy=no
while [[ $# -gt 0 ]]; do
  case "$1" in
    --long) export BUCKETD_LONG=1; shift ;;
    --preset)
      [[ "${2:-}" =~ ^(release|debug|asan|tsan)$ ]] || { echo "--preset takes release, debug, asan or tsan" >&2; exit 2; }
      presets+=("$2"); shift 2 ;;
    --filter) [[ -n "${2:-}" ]] || { echo "--filter takes a regular expression" >&2; exit 2; }
      filter=$2; shift 2 ;;
    --tidy) tidy=yes; shift ;;
    -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1 (try --help)" >&2; exit 2 ;;
  esac
done
[[ ${#presets[@]} -gt 0 ]] || presets=(release asan)

cd "$kRoot"
# Everything a test writes goes here, so that it goes away with it; short, for socket paths.
work=$(mktemp -d /tmp/bdt-XXXXXX)
chmod 711 "$work"   # tests connect as other users to sockets below it
export TMPDIR=$work
failures=()
step() { printf '\n==== [%s, %d s] %s\n' "$(date +%H:%M:%S)" "$SECONDS" "$*"; }
fail() { failures+=("$1"); printf '==== FAILED: %s\n' "$1"; }

# Processes of this build that were started by this run: their environment has its TMPDIR.
leftover_processes() {
  local environment
  for environment in /proc/[0-9]*/environ; do
    local pid=${environment#/proc/}; pid=${pid%/environ}
    [[ $pid != "$$" && $pid != "$BASHPID" ]] || continue
    [[ "$(readlink "/proc/$pid/exe" 2>/dev/null)" == "$kRoot"/build/*/bin/* ]] || continue
    if tr '\0' '\n' 2>/dev/null < "$environment" | grep -qx "TMPDIR=$work"; then echo "$pid"; fi
  done
}
clean_up() {
  local code=$? pids
  trap - EXIT INT TERM
  pids=$(leftover_processes)
  # shellcheck disable=SC2086  # one argument for each pid
  [[ -z "$pids" ]] || kill -KILL $pids 2>/dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

our_sources() { git ls-files -- '*.cc' '*.h'; }

check_format() {
  step "formatting"
  our_sources | xargs clang-format --dry-run -Werror || fail "formatting (clang-format -i repairs it)"
}

build() {  # $1: preset
  step "$1: configuring and building"
  cmake --preset "$1" > "$work/configure.log" 2>&1 || { cat "$work/configure.log"; fail "$1: configure"; return 1; }
  # Progress in one line of forty, and whatever is no progress.
  cmake --build --preset "$1" 2>&1 |
    awk '!/^\[[0-9]+\/[0-9]+\]/ || ++lines % 40 == 0 {print; fflush()}' || { fail "$1: build"; return 1; }
}

run_tests() {  # $1: preset
  step "$1: testing"
  local arguments=(--preset "$1" --output-junit "$work/$1.xml" --no-tests=error --parallel 2)
  if [[ -n "$filter" ]]; then
    arguments+=(-R "$filter")
  fi
  # Nothing of ours is compiled into what these run.
  [[ $1 == release || $1 == debug ]] || arguments+=(--label-exclude '^(python|systemd)$')
  ctest "${arguments[@]}" 2>&1 | tee "$work/$1.ctest" || fail "$1: tests"
  local left
  left=$(leftover_processes)
  [[ -z "$left" ]] || fail "$1: processes were left: $(ps -o pid=,args= -p "${left//$'\n'/,}" | tr '\n' ';')"
  # Only this script's own files may be there after the tests.
  left=$(find "$work" -mindepth 1 -maxdepth 1 ! -name '*.log' ! -name '*.xml' ! -name '*.ctest')
  [[ -z "$left" ]] || fail "$1: files were left: ${left//$'\n'/ }"
  find "$work" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
}

# What includes LibTorch's headers takes minutes a file and mostly finds LibTorch's own faults.
check_tidy() {
  step "clang-tidy (at most $kTidyLimitSeconds s)"
  local sources code=0
  mapfile -t sources < <(our_sources | grep '\.cc$' | grep -v -e '^daemon/backends/torchscript/' -e '_test\.cc$' -e '^tests/')
  printf '%s\0' "${sources[@]}" | timeout --foreground "$kTidyLimitSeconds" \
    xargs -0 -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet > "$work/tidy.log" 2>/dev/null || code=$?
  if [[ $code -eq 124 ]]; then
    echo "stopped at the time limit; what was checked until then:"
  fi
  if grep -q -e ': error:' -e ': warning:' "$work/tidy.log"; then
    cat "$work/tidy.log"
    fail "clang-tidy"
  else
    echo "no findings"
  fi
}

# The counts of one ctest run, from its last lines.
passed_of() { sed -n 's/.* tests passed, \([0-9]*\) tests failed out of \([0-9]*\)/\2 \1/p' "$1" | awk '{print $1 - $2}'; }
failed_of() { sed -n 's/.* tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$1"; }

step "packages"
tools/install-packages.sh test
[[ -n "$filter" ]] || check_format
for preset in "${presets[@]}"; do
  if build "$preset"; then run_tests "$preset"; fi
done
[[ $tidy == no ]] || check_tidy

step "summary"
passed=0 failed=0
for preset in "${presets[@]}"; do
  [[ -s $work/$preset.ctest ]] || { echo "$preset: not run"; continue; }
  echo "--- $preset"
  sed -n '/tests passed/,$p' "$work/$preset.ctest"
  passed=$((passed + $(passed_of "$work/$preset.ctest")))
  failed=$((failed + $(failed_of "$work/$preset.ctest")))
done
if [[ ${#failures[@]} -gt 0 ]]; then
  echo
  printf 'FAILED: %s\n' "${failures[@]}"
fi
echo
echo "$passed passed, $failed failed"
[[ ${#failures[@]} -eq 0 ]]
