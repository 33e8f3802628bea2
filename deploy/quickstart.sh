#!/usr/bin/env bash
# From a fresh machine to an answer: installs what is missing, builds, starts the daemon, posts real Q, K and V with curl,
# compares variants on them, stops. `--serve` keeps the daemon running until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/packages.sh

serve=0
for argument in "$@"; do
    case "$argument" in
        --serve) serve=1 ;;
        -h | --help)
            echo "usage: deploy/quickstart.sh [--serve]"
            echo "  builds into build/, starts attnd on a free port, posts tests/data/minilm_qkv.safetensors, compares"
            echo "  variants and prints the table. --serve: keeps the daemon running until it is stopped."
            exit 0
            ;;
        *)
            say "unknown argument '$argument'; the only one is --serve"
            exit 2
            ;;
    esac
done

packages_install "${BUILD_PACKAGES[@]}" curl ca-certificates

build=${ATTN_BUILD_DIR:-build}
input=tests/data/minilm_qkv.safetensors
scratch=$(mktemp -d -t attnd-quickstart.XXXXXX)
log=$scratch/log
answer=$scratch/answer.safetensors
pid=
stop() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }
    rm -rf "$scratch"
}
trap stop EXIT

# Kernels for a GPU that is not there would only cost minutes.
cuda=OFF
! nvidia-smi -L 2>/dev/null | grep -q GPU || cuda=ON
say "building into $build/"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DATTN_CUDA=$cuda -DBUILD_TESTING=OFF -DATTN_BENCH=OFF >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build "$build" >"$log" 2>&1 || { tail -50 "$log" >&2; exit 1; }

"$build/bin/attnd" --http-port 0 --port-file "$scratch/ports" --metrics-port 0 >"$log" 2>&1 &
pid=$!
url=
for _ in $(seq 200); do
    kill -0 "$pid" 2>/dev/null || { say "attnd ended before it was ready:"; cat "$log" >&2; pid=; exit 1; }
    [ ! -s "$scratch/ports" ] || url=http://127.0.0.1:$(awk '$1 == "http" {print $2}' "$scratch/ports")
    [ -z "$url" ] || ! curl -fs -o /dev/null --max-time 2 "$url/v2/health/ready" || break
    sleep 0.05
done
curl -fsS -o /dev/null --max-time 2 "${url:-http://127.0.0.1:0}/v2/health/ready" || { say "attnd is not ready:"; cat "$log" >&2; exit 1; }

run() { printf '\n$ %s\n' "$*"; "$@"; }
run curl -fsS --max-time 60 -H 'Content-Type: application/safetensors' --data-binary "@$input" -o "$answer" "$url/v1/attention?return_lse=true"
# A safetensors file is a 64-bit length, a JSON header, and the tensors: the header tells what happened.
length=$(od -An -t u8 -N 8 "$answer" | tr -d ' ')
echo "answer: $(head -c $((8 + length)) "$answer" | tail -c "$length")"
run "$build/bin/attnctl" variants --server "$url"
run "$build/bin/attnctl" compare "$input" --server "$url"

if [ "$serve" = 1 ]; then
    printf '\nattnd serves at %s (pid %s); Ctrl-C stops it\n' "$url" "$pid"
    trap 'kill "$pid" 2>/dev/null' INT TERM
    wait "$pid" || true
    pid=
else
    kill "$pid"
    status=0
    wait "$pid" || status=$?
    pid=
    [ "$status" = 0 ] || { say "attnd ended with status $status:"; cat "$log" >&2; exit 1; }
    printf '\nattnd stopped; everything worked\n'
fi
