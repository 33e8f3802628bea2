#!/bin/sh
# Compiler launcher: runs the compiler and fails when ptxas says that it serialised wgmma or ignored setmaxnreg
# (C75xx). Those are notes, not warnings, so -Werror lets them pass.
log=$(mktemp) || exit 1
"$@" >"$log" 2>&1
rc=$?
cat "$log" >&2
if [ $rc -eq 0 ] && grep -q 'C75[0-9][0-9]' "$log"; then
    echo "error: ptxas notes C75xx above: wgmma serialised or setmaxnreg ignored" >&2
    rc=1
fi
rm -f "$log"
exit $rc
