"""A case that fills the disk costs itself; the records of the cases after it have no room."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("full_disk_run.py")
NAMESPACE = ["unshare", "--mount", "--map-root-user"]


def can_mount() -> bool:
    """Tell whether this user may mount a file system in a namespace of its own."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="no mount namespace: unshare --mount failed")
def test_a_case_that_fills_the_disk_is_an_error_and_the_next_ones_pass(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {shlex.quote(str(small))}"
    run = shlex.join([sys.executable, str(RUN), str(tmp_path)])
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f"{mount} && {run}"],
        env={**os.environ, "TMPDIR": str(small)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *others = json.loads(done.stdout)
    assert first[0] == "error"
    assert "No space left on device" in first[1]
    assert others == [["passed"]] * 3
