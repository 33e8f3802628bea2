#!/usr/bin/env bash
# On a machine with one or more GPUs, from carried portable binaries (deploy/portable.sh), in less than 4 minutes: what
# the device path carries, the service beside its peer with 64 callers, one caller, a Poisson mix, a flood, and how
# several GPUs share what is bound by kernels. Needs Python with torch and aiohttp for the peer; says so without a GPU.
#
#   bash tests/bench/batch_gpu.sh [FOLDER OF THE PORTABLE TREE [PART...]]     parts: path sched tiny one poisson flood gpus
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=${1:-build-portable/attnd-portable}
[ $# -eq 0 ] || shift
parts=${*:-path sched tiny one poisson flood gpus}
python=${PYTHON:-python3}
worker=$tree/bin/attn-worker
for part in $parts; do
    [[ " path sched tiny one poisson flood gpus " == *" $part "* ]] || { echo "batch_gpu.sh: no part is called $part"; exit 2; }
done

if [ -z "$("$worker" --list-devices)" ]; then
    echo "skipped: no GPU"
    exit 77
fi
gpus=$("$worker" --list-devices | wc -l)
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null | head -1 || true

failed=0
step() { # SECONDS COMMAND...
    local began=$SECONDS limit=$1
    shift
    timeout "$limit" "$@" || { echo "FAILED with status $?: $*"; failed=1; }
    echo "--- $((SECONDS - began)) s"
}
has() { [[ " $parts " == *" $1 "* ]]; }

has path && step 60 "$tree/bench/device_path" 0.3
has sched && step 40 "$tree/bench/sched_latency" --worker "$worker" --devices 0 --variant unified --requests 20000
steadiness() { # the tails of a mix are those of the link where the host is shared
    [ "$1" != poisson ] || step 20 "$tree/bench/link_steadiness" 5
}
for part in tiny one poisson flood; do
    has "$part" || continue
    steadiness "$part"
    step 90 "$python" tests/bench/batch_bench.py --tree "$tree" --device cuda --rounds 2 --only "$part"
    steadiness "$part"
done
if has gpus; then
    # 48 MiB in, 32 MiB out, about 2.7 ms of kernel: bound by kernels. (Half the length moves twice as much for its time: 2.8
    # times one on four GPUs, where all copies come from one host's memory.)
    list=0
    for count in 1 2 4 8; do
        [ "$count" -le "$gpus" ] || continue
        list=$(seq -s, 0 $((count - 1)))
        step 40 "$tree/bench/sched_latency" --worker "$worker" --devices "$list" --variant unified --seq 32768 --heads 4/1 \
            --window $((6 * count)) --requests $((1000 * count)) --arena-mib $((2048 * count))
    done
    [ "$gpus" -gt 1 ] || echo "gpus: one GPU only, nothing to share"
fi
exit $failed
