"""The GPU's test of every capability over HTTP, with `cpu`: it can fail there only when it can fail."""
import subprocess
import sys

import pytest

from daemon import BIN, ROOT


@pytest.mark.heavy
def test_capabilities():
    done = subprocess.run([sys.executable, str(ROOT / "tests/gpu/capabilities.py"), str(BIN), "--variant", "cpu", "--devices", "cpu"],
                          capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " 0 failed" in done.stdout
