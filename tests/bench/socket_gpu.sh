#!/usr/bin/env bash
# On a machine with a GPU, from carried portable binaries (deploy/portable.sh), about 40 s: the Unix socket's doors, host and
# device memory, beside what the machine takes without a daemon; and the ring alone between two processes.
#
#   bash tests/bench/socket_gpu.sh [FOLDER OF THE PORTABLE TREE]
set -uo pipefail
cd "$(dirname "$0")/../.."
tree=${1:-build-portable/attnd-portable}
if [ -z "$("$tree/bin/attn-worker" --list-devices)" ]; then
    echo "skipped: no GPU"
    exit 77
fi
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null | head -1 || true
failed=0
timeout 60 "$tree/bench/ring_latency" "$tree/bin" 20000 || failed=1
timeout 240 "${PYTHON:-python3}" tests/bench/socket_bench.py --tree "$tree" || failed=1
exit $failed
