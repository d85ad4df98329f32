#!/usr/bin/env bash
# The main job, end to end: installs, builds, makes a bucketed BERT, serves it from one daemon to
# four client processes at once, and compares every answer with the model without buckets. Then
# images in buckets of height and width, from four processes; and a generator: three processes, each
# with a KV cache of its own in the daemon, token by token.
#
#   tools/demo.sh [--size tiny|small|base]... [--all-lengths] [--images] [--generator]
#
# Without --size, --images and --generator: small with every length from 1 to 512, base (768 wide,
# 12 layers) with eight lengths, images and generator. --all-lengths: every length for base too.
# Exits with 0 only if every answer was right. Leaves nothing behind but build/release.
set -euo pipefail

readonly kRoot=$(cd "$(dirname "$0")/.." && pwd)
readonly kBin=$kRoot/build/release/bin
readonly kPython=/usr/bin/python3   # Debian's: the one that has Debian's torch
readonly kClients=4
readonly kTexts=3
readonly kBaseLengths=1,17,122,128,129,300,444,512

sizes=()
all_lengths=no
images=no
generator=no
while [[ $# -gt 0 ]]; do
  case "$1" in
    --size)
      [[ "${2:-}" =~ ^(tiny|small|base)$ ]] || { echo "--size takes tiny, small or base" >&2; exit 2; }
      sizes+=("$2"); shift 2 ;;
    --all-lengths) all_lengths=yes; shift ;;
    --images) images=yes; shift ;;
    --generator) generator=yes; shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1 (try --help)" >&2; exit 2 ;;
  esac
done
if [[ ${#sizes[@]} -eq 0 && $images == no && $generator == no ]]; then
  sizes=(small base)
  images=yes
  generator=yes
fi

cd "$kRoot"
work=$(mktemp -d "${TMPDIR:-/tmp}/bucketd-demo-XXXXXX")
export BUCKETD_SOCKET=$work/bucketd.sock
daemon=
step() { printf '\n[%4d s] %s\n' "$SECONDS" "$*"; }

stop_daemon() {
  [[ -n "$daemon" ]] || return 0
  kill -TERM "$daemon" 2>/dev/null || true
  local code=0
  wait "$daemon" || code=$?
  daemon=
  [[ $code -eq 0 ]] || echo "bucketd ended with exit code $code" >&2
  return $code
}
clean_up() {
  local code=$?
  trap - EXIT INT TERM
  stop_daemon || code=1
  if [[ $code -ne 0 && -s $work/bucketd.log ]]; then
    echo "--- the daemon's last lines ---" >&2
    tail -n 40 "$work/bucketd.log" >&2
  fi
  rm -rf "$work"
  if [[ $code -eq 0 ]]; then step "demo passed"; else step "demo FAILED"; fi
  exit $code
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_daemon() {  # $1: folder with $2.pt
  cat > "$work/bucketd.yaml" <<YAML
socket:
  path: $work/bucketd.sock
  mode: "0600"
artifact_roots: [$1]
models:
  - name: $2
    path: $2.pt
YAML
  "$kBin/bucketd" --check-config "$work/bucketd.yaml"
  "$kBin/bucketd" --config "$work/bucketd.yaml" 2> "$work/bucketd.log" &
  daemon=$!
}

# Four processes, each with a quarter of the requests; fails if one of them does.
run_clients() {  # $1: which program; $2: folder with index.json
  local pids=() pid failed=0 i
  for ((i = 0; i < kClients; ++i)); do
    "$kBin/$1" --requests "$2" --share "$i/$kClients" &
    pids+=($!)
  done
  # shellcheck disable=SC2064  # the pids of now
  trap "kill ${pids[*]} 2>/dev/null; exit 130" INT TERM
  for pid in "${pids[@]}"; do
    wait "$pid" || { failed=1; echo "client process $pid failed"; }
  done
  return $failed
}

# One run: artifact, daemon, four clients at once, wrong requests, stop.
run_size() {  # $1: size
  local size=$1 lengths=1-512 folder=$work/$1
  [[ $size != base || $all_lengths == yes ]] || lengths=$kBaseLengths

  step "BERT $size: tracing the buckets of 128 and 512 tokens, and answering without buckets"
  PYTHONPATH=$kRoot/libclient/python "$kPython" libclient/python/examples/make_demo_artifact.py \
    --size "$size" --output "$folder" --lengths "$lengths"

  step "BERT $size: starting bucketd"
  start_daemon "$folder" bert
  # Waits until the model has loaded and run every bucket once.
  "$kBin/bucketctl" --wait --timeout 300 describe bert
  "$kBin/bucketctl" status

  step "BERT $size: $kClients client processes at once"
  echo "process  tokens  bucket  daemon argmax  unbucketed argmax  largest difference"
  local ended_well=yes wanted answers processes largest tokens bucket
  run_clients bucketd-demo-client "$folder/requests" 2>&1 | tee "$work/rows" || ended_well=no
  wanted=$(grep -c '"length"' "$folder/requests/index.json")
  answers=$(grep -c ' ok$' "$work/rows" || true)
  processes=$(awk '$NF == "ok" {print $1}' "$work/rows" | sort -u | wc -l)
  largest=$(awk '$NF == "ok" && $6 > m {m = $6} END {print m + 0}' "$work/rows")
  summary+=("BERT $size: $answers of $wanted answers right, from $processes processes at once, largest difference $largest")
  for tokens in 122 444; do
    bucket=$(awk -v tokens=$tokens '$2 == tokens {print $3}' "$work/rows")
    summary+=("BERT $size: $tokens tokens went to bucket $bucket")
    [[ $tokens:$bucket =~ ^(122:128|444:512)$ ]] || ended_well=no
  done
  [[ $ended_well == yes && $answers -eq $wanted && $processes -ge $kClients ]] || return 1

  step "BERT $size: requests that are wrong"
  "$kBin/bucketd-demo-client" --requests "$folder/requests" --show-errors
  summary+=("BERT $size: five kinds of wrong requests, each with its own error, and it went on serving")

  step "BERT $size: stopping bucketd"
  stop_daemon
  if [[ -e $work/bucketd.sock ]]; then echo "the socket is left" >&2; return 1; fi
  rm -rf "$folder"
}

# Images of many sizes, in buckets over height and width.
run_images() {
  local folder=$work/images ended_well=yes wanted answers largest
  step "images: tracing a convolutional network in buckets of five resolutions"
  PYTHONPATH=$kRoot/libclient/python "$kPython" \
    libclient/python/examples/image_example.py --output "$folder"

  step "images: starting bucketd"
  start_daemon "$folder" images
  "$kBin/bucketctl" --wait --timeout 300 describe images

  step "images: $kClients client processes at once"
  echo "process      image     bucket   heat map  largest difference"
  run_clients bucketd-demo-images "$folder/requests" 2>&1 | tee "$work/rows" || ended_well=no
  wanted=$(grep -c '"height"' "$folder/requests/index.json")
  answers=$(grep -c ' ok$' "$work/rows" || true)
  largest=$(awk '$NF == "ok" && $5 > m {m = $5} END {print m + 0}' "$work/rows")
  summary+=("images: $answers of $wanted answers equal the network without buckets, largest difference $largest")
  [[ $ended_well == yes && $answers -eq $wanted ]] || return 1
  step "images: stopping bucketd"
  stop_daemon
  rm -rf "$folder"
}

# Three texts at once, each through a session of its own.
run_generator() {
  local folder=$work/generator
  step "generator: training a small one with a KV cache, tracing its prefill and decode buckets"
  PYTHONPATH=$kRoot/libclient/python "$kPython" \
    libclient/python/examples/make_generator_artifact.py --output "$folder"

  step "generator: starting bucketd"
  start_daemon "$folder" generator
  "$kBin/bucketctl" --wait --timeout 300 describe generator

  step "generator: $kTexts processes at once"
  echo "process  prompt  tokens  buckets  ms/token"
  local pids=() pid i right ended_well=yes
  for ((i = 0; i < kTexts; ++i)); do
    "$kBin/bucketd-demo-generator" --prompts "$folder/prompts" --prompt "$i" > "$work/text$i" 2>&1 &
    pids+=($!)
  done
  # shellcheck disable=SC2064  # the pids of now
  trap "kill ${pids[*]} 2>/dev/null; exit 130" INT TERM
  for pid in "${pids[@]}"; do
    wait "$pid" || { ended_well=no; echo "process $pid failed"; }
  done
  cat "$work"/text*
  right=$(cat "$work"/text* | grep -c ' ok$' || true)
  summary+=("generator: $right of $kTexts texts equal, token for token, the model without buckets and cache")
  [[ $ended_well == yes && $right -eq $kTexts ]] || return 1
  step "generator: stopping bucketd"
  "$kBin/bucketctl" status
  stop_daemon
  rm -rf "$folder"
}

step "packages"
tools/install-packages.sh demo
step "building (build/release)"
cmake --preset release > "$work/configure.log" || { cat "$work/configure.log"; exit 1; }
cmake --build --preset release --target bucketd bucketd-worker bucketctl \
  bucketd-demo-client bucketd-demo-images bucketd-demo-generator

summary=()
for size in "${sizes[@]}"; do run_size "$size"; done
[[ $images == no ]] || run_images
[[ $generator == no ]] || run_generator

step "summary"
printf '  %s\n' "${summary[@]}"
