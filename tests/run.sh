#!/usr/bin/env bash
# Every test that this machine can run, from a fresh clone: installs what is missing, builds three times (plain, ASan +
# UBSan, TSan), runs the checks, the unit tests and the end-to-end tests, says what was skipped and why. The exit status
# is 0 only when nothing failed. Each step has a time limit; logs stay in build/test-logs.
set -uo pipefail
cd "$(dirname "$0")/.."
source deploy/packages.sh

full=0 only=
for argument in "$@"; do
    case "$argument" in
        --full) full=1 ;;
        --only=*) only=${argument#--only=} ;;
        -h | --help)
            cat <<HELP
usage: tests/run.sh [--full] [--only=STEP[,STEP…]]
  --full   fault tests at their full length, and bodies over 2 GiB (about 15 minutes and 12 GiB of memory more)
  --only   of: source cppcheck build unit gpu e2e asan tsan
Environment: ATTN_CUDA=OFF leaves the CUDA parts out.
HELP
            exit 0
            ;;
        *)
            say "unknown argument '$argument'; --help lists what there is"
            exit 2
            ;;
    esac
done

build=$PWD/build
logs=$build/test-logs
venv=$build/venv
mkdir -p "$logs"
passed=0 failed=0 skipped=0
skips=() failures=()
started=$SECONDS

wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }
title() { printf '\n==> %s (%d s)\n' "$*" $((SECONDS - started)); }

# step NAME LIMIT_SECONDS COMMAND…: counts as one test.
step() {
    local name=$1 limit=$2 log status=0
    shift 2
    log=$logs/$name.log
    timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        printf 'ok    %s\n' "$name"
        return 0
    fi
    failed=$((failed + 1))
    failures+=("$name (exit status $status; $log)")
    printf 'FAIL  %s: exit status %s%s\n' "$name" "$status" "$([ $status = 124 ] && echo ", ran into its limit of $limit s")"
    tail -60 "$log"
    return 1
}

skip() {
    skipped=$((skipped + 1))
    skips+=("$1: $2")
    printf 'skip  %s: %s\n' "$1" "$2"
}

# configure and build one tree: tree NAME FOLDER CMAKE_ARGUMENTS…
tree() {
    local name=$1 folder=$2
    shift 2
    local launcher=()
    ! command -v ccache >/dev/null || launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
    # ON, because deploy/quickstart.sh turns both off in the same folder.
    step "configure-$name" 120 cmake -S . -B "$folder" -G Ninja "${launcher[@]}" -DBUILD_TESTING=ON -DATTN_BENCH=ON "$@" &&
        step "build-$name" 1500 cmake --build "$folder"
}

count_add() {
    passed=$((passed + ${1:-0}))
    failed=$((failed + ${2:-0}))
    skipped=$((skipped + ${3:-0}))
}

# ctest_run NAME FOLDER LIMIT CTEST_ARGUMENTS…
ctest_run() {
    local name=$1 folder=$2 limit=$3 log=$logs/ctest-$1.log xml=$logs/ctest-$1.xml status=0
    shift 3
    rm -f "$xml"
    timeout -k 10 "$limit" ctest --test-dir "$folder" --output-on-failure --timeout 180 --no-tests=error --output-junit "$xml" "$@" \
        >"$log" 2>&1 </dev/null || status=$?
    [ $status = 0 ] || grep -v '^ *[0-9]*/[0-9]* Test .* Passed' "$log" | tail -150
    tail -12 "$log" | grep -E 'tests passed|Not Run|Skipped|Total Test time' || true
    local numbers
    numbers=$("$venv/bin/python" tests/junit_count.py "$name" "$xml")
    counted "$name" "$status" "$numbers" "$log"
}

# pytest_run NAME LIMIT PYTEST_ARGUMENTS…
pytest_run() {
    local name=$1 limit=$2 log=$logs/pytest-$1.log xml=$logs/pytest-$1.xml status=0
    shift 2
    rm -f "$xml"
    timeout -k 10 "$limit" "$venv/bin/python" -m pytest -q -ra -p no:cacheprovider --junitxml="$xml" "$@" >"$log" 2>&1 </dev/null || status=$?
    [ $status = 0 ] || tail -200 "$log"
    tail -1 "$log"
    local numbers
    numbers=$("$venv/bin/python" tests/junit_count.py "$name" "$xml")
    counted "$name" "$status" "$numbers" "$log"
}

# numbers: a first line "passed failed skipped", then one line for each skip.
counted() {
    local name=$1 status=$2 p=0 f=0 s=0 line
    { read -r p f s && while read -r line; do skips+=("$line"); done; } <<<"$3"
    # A runner that failed without a failed test broke down itself.
    [ "$status" = 0 ] || [ "$f" -gt 0 ] || f=1
    [ "$status" = 0 ] && [ "$f" = 0 ] || failures+=("$name (exit status $status, $f failed; $4)")
    count_add "$p" "$f" "$s"
}

finish() {
    title "done"
    if [ ${#skips[@]} -gt 0 ]; then
        echo "skipped:"
        printf '  %s\n' "${skips[@]}"
    fi
    if [ ${#failures[@]} -gt 0 ]; then
        echo "failed:"
        printf '  %s\n' "${failures[@]}"
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ] && [ ${#failures[@]} = 0 ] && [ "$passed" -gt 0 ]
    exit $?
}
abort() {
    failures+=("$1")
    failed=$((failed + 1))
    finish
}

title "packages"
packages_install "${BUILD_PACKAGES[@]}" python3 python3-venv curl ca-certificates git procps util-linux cppcheck ||
    abort "packages: see above"
python=python3
python3 -c 'import venv, ensurepip' 2>/dev/null || python=/usr/bin/python3
# Asks the package index only when the list of requirements has changed.
if ! cmp -s tests/e2e/requirements.txt "$venv/requirements.done"; then
    step venv 120 "$python" -m venv "$venv" &&
        step requirements 600 "$venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/e2e/requirements.txt &&
        cp tests/e2e/requirements.txt "$venv/requirements.done" || abort "python: the test clients could not be installed"
fi
export PATH=$venv/bin:$PATH

if wanted source; then
    title "source: include direction, lengths, format"
    step source 120 python tests/check_source.py --format
fi
if wanted cppcheck; then
    title "cppcheck"
    step cppcheck 600 tests/cppcheck.sh "$logs"
fi

title "build"
tree plain "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DATTN_CUDA="${ATTN_CUDA:-ON}" -DATTN_SANITIZE= || abort "the plain build failed"
cuda=$(grep -c 'CUDA parts: ON' "$logs/configure-plain.log")
[ "$cuda" -gt 0 ] || skip cuda-build "no CUDA compiler (nvcc) here: the CUDA parts are not built"

if wanted unit; then
    title "unit tests"
    ctest_run unit "$build" 900 -LE gpu
fi
if wanted gpu; then
    title "GPU tests"
    # Without a GPU each program says so and counts as skipped.
    if [ "$cuda" = 0 ]; then
        skip gpu "no CUDA compiler here"
    else
        ctest_run gpu "$build" 1500 -L gpu
    fi
fi

extra=()
[ "$full" = 0 ] || extra=(--full)
if wanted e2e; then
    title "end-to-end tests"
    ATTN_BIN=$build/bin pytest_run e2e $((full ? 3600 : 900)) --timeout $((full ? 600 : 120)) "${extra[@]}" tests/e2e
fi

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
if wanted asan; then
    title "ASan + UBSan: unit and end-to-end tests"
    if tree asan "$PWD/build-asan" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DATTN_CUDA=OFF -DATTN_BENCH=OFF -DATTN_SANITIZE=address; then
        export ASAN_OPTIONS=detect_leaks=1:exitcode=99
        ctest_run asan-unit "$PWD/build-asan" 900 -LE gpu
        ATTN_BIN=$PWD/build-asan/bin ATTN_SANITIZED=address pytest_run asan-e2e 1200 --timeout 300 -m "not heavy" tests/e2e
    fi
fi
if wanted tsan; then
    title "TSan: unit tests"
    export TSAN_OPTIONS=exitcode=66:halt_on_error=0
    if tree tsan "$PWD/build-tsan" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DATTN_CUDA=OFF -DATTN_BENCH=OFF -DATTN_SANITIZE=thread; then
        ctest_run tsan-unit "$PWD/build-tsan" 900 -LE gpu
    fi
fi
finish
