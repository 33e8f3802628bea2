#!/usr/bin/env bash
# On a machine with a GPU, from carried portable binaries (deploy/portable.sh), in less than 190 s: real input on every
# variant that runs it, start and idle cost, and the service beside its peer. Needs Python with torch and aiohttp for
# the peer.
#
#   bash tests/bench/service_gpu.sh [FOLDER OF THE PORTABLE TREE]
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=${1:-build-portable/attnd-portable}
bin=$tree/bin
python=${PYTHON:-python3}
input=tests/data/minilm_qkv.safetensors

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
"$bin/attnd" --version

ports=$(mktemp -u)
"$bin/attnd" --http-port 0 --port-file "$ports" --metrics-port 0 --devices auto 2>"$ports.log" &
pid=$!
trap 'kill $pid 2>/dev/null || true; rm -f "$ports" "$ports.log"' EXIT
for _ in $(seq 200); do
    [ -s "$ports" ] && curl -fs -o /dev/null "http://127.0.0.1:$(awk '$1 == "http" {print $2}' "$ports")/v2/health/ready" && break
    kill -0 $pid || { cat "$ports.log"; exit 1; }
    sleep 0.05
done
url=http://127.0.0.1:$(awk '$1 == "http" {print $2}' "$ports")
"$bin/attnctl" variants --server "$url"
timeout 30 "$bin/attnctl" compare "$input" --server "$url"
kill $pid
wait $pid
echo "exit status of attnd: $?"

timeout 90 "$python" tests/bench/service_startup.py --bin "$bin" --devices auto --starts 3 --idle 4
timeout 70 "$python" tests/bench/service_bench.py --bin "$bin" --load "$tree/bench/http_load" --device cuda --seconds 1 --rounds 3 --shapes 2
# 75 s: where one caller's time goes. OTHER=FOLDER/bin puts a second build into the same rounds.
timeout 130 "$python" tests/bench/service_latency.py --bin "$bin" --load "$tree/bench/http_load" --device cuda --rounds 4 ${OTHER:+--other "$OTHER"}
