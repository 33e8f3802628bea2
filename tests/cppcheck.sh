#!/usr/bin/env bash
# cppcheck over the C sources; the first argument is a folder for its cache.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1/cppcheck"
# memleak there: the watch is in a list by then. uninitvar and its kin follow no function that fills its argument: false alarms, and -Wmaybe-uninitialized is an error.
mapfile -t sources < <(git ls-files 'server/*.c' 'kernels/*.c' 'client/*.c' 'tests/bench/*.c')
exec cppcheck -q -j "$(nproc)" --std=c11 --enable=warning,performance --inline-suppr --error-exitcode=1 \
    --suppress=memleak:server/sched/compare.c --suppress=uninitvar --suppress=uninitStructMember --suppress=ctuuninitvar --suppress=missingInclude --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches \
    --cppcheck-build-dir="$1/cppcheck" -D_GNU_SOURCE -D__linux__ -D__x86_64__ -DATTND_VERSION='"x"' \
    -I server -I kernels/include -I kernels -I client/include -I client "${sources[@]}"
