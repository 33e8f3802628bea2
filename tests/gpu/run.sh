#!/usr/bin/env bash
# Everything that a machine with a GPU can say about built binaries: the GPU test programs and a smoke test of the
# service. Needs only the binaries, curl and python3, so that binaries built elsewhere can be brought; with numpy each
# capability is asked for over HTTP too.
#   tests/gpu/run.sh [directory of the binaries, build/bin without it]
# Prints a summary; exit status 1 when something failed, 0 with "skipped" for what this machine cannot run.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${1:-$here/../../build/bin}
bin=$(cd "$bin" && pwd) || exit 2

summary=()
failed=0
run() {
    local name=$1 seconds=$2
    shift 2
    printf '\n== %s\n' "$name"
    timeout "$seconds" "$@"
    local status=$?
    case $status in
        0) summary+=("passed   $name") ;;
        77) summary+=("skipped  $name: it says why above") ;;
        124) summary+=("FAILED   $name: not done in $seconds s") && failed=1 ;;
        *) summary+=("FAILED   $name: exit status $status") && failed=1 ;;
    esac
}

for program in attn_gpu_reference_test attn_gpu_engine_test attn_gpu_device_regions_test unified_test; do
    if [ -x "$bin/$program" ]; then
        run "$program" 300 "$bin/$program"
    else
        summary+=("skipped  $program: not in $bin")
    fi
done
if [ -x "$bin/attnd" ] && [ -x "$bin/attn-worker" ]; then
    run "service" 120 python3 "$here/smoke.py" "$bin" "$here/../data/minilm_qkv.safetensors"
    run "groups through the service" 90 python3 "$here/groups.py" "$bin"
    run "every door for libattn" 300 python3 "$here/local_client.py" "$bin" "$here/../data/minilm_qkv.safetensors" --seconds 1
    for variant in unified reference; do
        run "every capability of $variant over HTTP" 60 python3 "$here/capabilities.py" "$bin" --variant "$variant"
    done
else
    summary+=("skipped  service: no attnd and attn-worker in $bin")
fi

printf '\n'
printf '%s\n' "${summary[@]}"
exit $failed
